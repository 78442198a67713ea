"""Pages of servers that stand before the service, and answer in its place."""

from http.client import responses

_OK = 200
_LOGIN = (
    "<!doctype html>\n<html><head><title>Sign in</title></head><body><h1>Sign in</h1>"
    '<form method="post" action="/login"><input name="user"><input name="password" type="password">'
    "<button>Sign in</button></form></body></html>\n"
)
_ERROR = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n"
    "<center><h1>{0}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


def make_page(status: int) -> str:
    """Return what a proxy says with a status: with 200 a login page, else its own error page."""
    if status == _OK:
        return _LOGIN
    return _ERROR.format(f"{status} {responses.get(status, 'Unknown')}")


def guess_type(page: bytes) -> str:
    """Return the content type that a page is sent with: HTML, or plain text if it has no tags."""
    kind = "html" if page.lstrip().startswith(b"<") else "plain"
    return f"text/{kind}; charset=utf-8"
