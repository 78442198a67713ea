"""Runs in an official client's environment: takes steps on standard input, prints what it read.

A step is a call's name and its arguments. What comes of it is the object that the client made, or
the error's status and body.
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
        return runs.workflow_run_callback(run_id, body, _headers=headers)

    def bulk_rerun(ids):
        return ingestions.bulk_rerun_dv_workflows(ksapi.BulkRerunRequest(document_version_ids=ids))

    return {
        "list": ingestions.list_dv_workflows,
        "get": ingestions.get_dv_workflow,
        "rerun": ingestions.dv_workflow_rerun,
        "status": ingestions.get_temporal_workflow_status,
        "cancel": ingestions.cancel_temporal_workflow,
        "bulk_rerun": bulk_rerun,
        "get_run": runs.get_workflow_run,
        "delete_run": runs.delete_workflow_run,
        "callback": callback,
    }


def take(call, arguments):
    """What comes of one step."""
    try:
        made = call(**arguments)
    except ksapi.ApiException as error:
        return {"status": error.status, "body": json.loads(error.body)}
    return {"value": "nothing" if made is None else made.model_dump(mode="json")}


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
