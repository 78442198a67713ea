"""Runs in an official client's environment: takes steps on standard input, prints what it read.

A step is a call's name and its arguments. What comes of it is the object that the client made, and
the names of what was in the answer and is not in that object; or the error's status and body.
"""

import json
import sys

import ksapi


def make_calls(client):
    """Each call by the name that the test gives it."""
    runs = ksapi.WorkflowRunsApi(client)
    jobs = getattr(ksapi, "SystemJobsApi", None) or ksapi.WorkflowsApi
    ingestions = jobs(client)

    def callback(run_id, status, error=None, token=None):
        body = ksapi.WorkflowRunCallbackRequest(status=status, error=error)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return runs.workflow_run_callback_with_http_info(run_id, body, _headers=headers)

    def bulk_rerun(ids):
        body = ksapi.BulkRerunRequest(document_version_ids=ids)
        return ingestions.bulk_rerun_dv_workflows_with_http_info(body)

    return {
        "list": ingestions.list_dv_workflows_with_http_info,
        "get": ingestions.get_dv_workflow_with_http_info,
        "rerun": ingestions.dv_workflow_rerun_with_http_info,
        "status": ingestions.get_temporal_workflow_status_with_http_info,
        "cancel": ingestions.cancel_temporal_workflow_with_http_info,
        "bulk_rerun": bulk_rerun,
        "get_run": runs.get_workflow_run_with_http_info,
        "delete_run": runs.delete_workflow_run_with_http_info,
        "callback": callback,
    }


def find_foreign(path, sent, made):
    """The names of what a server sent and the client's model has no field for."""
    if isinstance(made, list):
        for one_sent, one_made in zip(sent, made, strict=True):
            yield from find_foreign(f"{path}[]", one_sent, one_made)
    elif hasattr(type(made), "model_fields"):
        fields = {field.alias or name: name for name, field in type(made).model_fields.items()}
        for name, value in sent.items():
            if name in fields:
                yield from find_foreign(f"{path}.{name}", value, getattr(made, fields[name]))
            else:
                yield f"{path}.{name}"


def take(call, arguments):
    """What comes of one step."""
    try:
        answer = call(**arguments)
    except ksapi.ApiException as error:
        return {"status": error.status, "body": json.loads(error.body)}
    made = answer.data
    if made is None:
        return {"value": "nothing", "foreign": []}
    foreign = find_foreign(type(made).__name__, json.loads(answer.raw_data), made)
    return {"value": made.model_dump(mode="json"), "foreign": sorted(set(foreign))}


def main():
    work = json.load(sys.stdin)
    client = ksapi.ApiClient(
        ksapi.Configuration(host=work["base_url"]),
        header_name="Authorization",
        header_value=f"Bearer {work['api_key']}",
    )
    calls = make_calls(client)
    json.dump([take(calls[name], arguments) for name, arguments in work["steps"]], sys.stdout)


main()
