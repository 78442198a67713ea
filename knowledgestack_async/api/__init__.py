"""One coroutine function an endpoint, one module a resource."""
