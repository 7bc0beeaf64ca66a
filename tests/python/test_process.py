"""A process from start to end, with nothing but grpcio and clients made from the contracts."""

import time

import grpc
import pytest
from google.protobuf import duration_pb2, json_format, struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from phasegate.approval.v1 import approval_pb2, approval_service_pb2, approval_service_pb2_grpc
from phasegate.artifact.v1 import artifact_service_pb2, artifact_service_pb2_grpc
from phasegate.definition.v1 import definition_pb2, definition_service_pb2, definition_service_pb2_grpc
from phasegate.instance.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    instance_pb2,
    instance_service_pb2,
    instance_service_pb2_grpc,
    task_pb2,
)
from phasegate.worker.v1 import worker_service_pb2, worker_service_pb2_grpc

DEADLINE = 30
QUEUE = "python-writers"
PROCESS = "python_review"


def definition():
    task = definition_pb2.ProcessTask(
        id="draft", name="Write a draft", assignee="writer", artifacts=["draft"], required_approvals=["editor"]
    )
    return definition_pb2.ProcessDefinition(
        id=PROCESS,
        name="Review",
        version="1.0.0",
        phases=[definition_pb2.ProcessPhase(id="writing", name="Writing", order=1, tasks=[task])],
        agents={"writer": definition_pb2.AgentDefinition(template_id=QUEUE, role="specialist")},
        humans={"editor": definition_pb2.HumanParticipant(role="editor", raid_role=definition_pb2.RAID_ROLE_APPROVER)},
    )


@pytest.fixture(scope="module")
def process(channel):
    definitions = definition_service_pb2_grpc.DefinitionServiceStub(channel)
    request = definition_service_pb2.CreateProcessDefinitionRequest(process_definition=definition())
    stored = definitions.CreateProcessDefinition(request, timeout=DEADLINE).process_definition
    assert stored.status == definition_pb2.DEFINITION_STATUS_PUBLISHED
    assert stored.content_digest.startswith("sha256:")
    return stored


@pytest.fixture
def instances(channel):
    return instance_service_pb2_grpc.InstanceServiceStub(channel)


def start(instances, request_id):
    context = struct_pb2.Struct()
    context.update({"topic": "leases", "words": 500})
    person = instance_service_pb2.ExternalParticipant(participant_id="editor", email="ed@acme.com", name="Edith")
    request = instance_service_pb2.StartInstanceRequest(
        process_id=PROCESS, name="From Python", context=context, external_participants=[person], request_id=request_id
    )
    return instances.StartInstance(request, timeout=DEADLINE).instance


def until(read, is_there):
    """What one service has told may need a moment to show at another."""
    end = time.monotonic() + DEADLINE
    while not is_there(answer := read()):
        assert time.monotonic() < end, answer
        time.sleep(0.05)
    return answer


def poll(channel):
    workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
    request = worker_service_pb2.PollTasksRequest(
        worker=worker_service_pb2.WorkerInfo(worker_id="python", identity="pytest"),
        queues=[QUEUE],
        wait=duration_pb2.Duration(seconds=10),
    )
    tasks = workers.PollTasks(request, timeout=DEADLINE).tasks
    assert len(tasks) == 1
    return workers, tasks[0]


def reason_of(error):
    """The reason that the details of a refusal give."""
    info = error_details_pb2.ErrorInfo()
    details = rpc_status.from_call(error).details
    return next((info.reason for detail in details if detail.Unpack(info)), "")


def test_a_process_runs_from_start_to_end(channel, process, instances):
    instance = start(instances, "python-start")
    assert instance.status == instance_pb2.INSTANCE_STATUS_RUNNING
    assert instance.phase == "writing"
    assert json_format.MessageToDict(instance.context) == {"topic": "leases", "words": 500}
    assert start(instances, "python-start") == instance, "a repeated request gets the first answer"

    workers, task = poll(channel)
    assert (task.instance_id, task.task_id, task.attempt) == (instance.id, "draft", 1)
    token = task.lease.task_token
    complete = worker_service_pb2.CompleteTaskRequest(task_token=token, summary="A draft is ready.")
    with pytest.raises(grpc.RpcError) as refused:
        workers.CompleteTask(complete, timeout=DEADLINE)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(refused.value) == "ARTIFACTS_MISSING"

    content = struct_pb2.Value(string_value="Leases end.")
    artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
    store = artifact_service_pb2.StoreArtifactRequest(
        instance_id=instance.id, key="draft", type="document", content=content, task_token=token
    )
    assert artifacts.StoreArtifact(store, timeout=DEADLINE).artifact.version == 1
    handed_in = workers.CompleteTask(complete, timeout=DEADLINE)
    assert handed_in.task_status == task_pb2.TASK_STATUS_AWAITING_APPROVAL

    approvals = approval_service_pb2_grpc.ApprovalServiceStub(channel)
    pending = approval_service_pb2.ListApprovalsRequest(instance_id=instance.id)
    (approval,) = until(
        lambda: approvals.ListApprovals(pending, timeout=DEADLINE).approvals, lambda approvals: len(approvals) == 1
    )
    assert approval.id == handed_in.approval_id
    assert [(artifact.key, artifact.version) for artifact in approval.artifacts] == [("draft", 1)]
    decide = approval_service_pb2.DecideApprovalRequest(
        approval_id=approval.id,
        approver_id="editor",
        decision=approval_pb2.DECISION_APPROVE,
        comment="Good.",
        content_digest=approval.content_digest,
    )
    decided = approvals.DecideApproval(decide, timeout=DEADLINE).approval
    assert decided.status == approval_pb2.APPROVAL_STATUS_APPROVED
    decide.decision = approval_pb2.DECISION_REJECT
    with pytest.raises(grpc.RpcError) as refused:
        approvals.DecideApproval(decide, timeout=DEADLINE)
    assert reason_of(refused.value) == "APPROVAL_ALREADY_DECIDED"

    get = instance_service_pb2.GetInstanceRequest(instance_id=instance.id)
    ended = until(
        lambda: instances.GetInstance(get, timeout=DEADLINE).instance,
        lambda instance: instance.status != instance_pb2.INSTANCE_STATUS_RUNNING,
    )
    assert ended.status == instance_pb2.INSTANCE_STATUS_COMPLETED
    assert (ended.progress_percent, list(ended.completed_phases)) == (100, ["writing"])


def test_a_watcher_sees_everything_until_the_end(channel, process, instances):
    instance = start(instances, "python-watch")
    events = event_service_pb2_grpc.EventServiceStub(channel)
    request = event_service_pb2.WatchEventsRequest(instance_id=instance.id, resume_token="0", until_terminal=True)
    stream = events.WatchEvents(request, timeout=DEADLINE)
    cancel = instance_service_pb2.CancelInstanceRequest(instance_id=instance.id, reason="seen enough")
    instances.CancelInstance(cancel, timeout=DEADLINE)
    seen = [event for message in stream for event in message.events]
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen[0].type == "instance.started"
    assert "instance.cancelled" in [event.type for event in seen]
    verify = event_service_pb2.VerifyAuditChainRequest(instance_id=instance.id)
    assert events.VerifyAuditChain(verify, timeout=DEADLINE).intact


def test_what_is_not_there_is_refused_with_a_reason(channel, instances):
    with pytest.raises(grpc.RpcError) as refused:
        instances.GetInstance(instance_service_pb2.GetInstanceRequest(instance_id="nowhere"), timeout=DEADLINE)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert reason_of(refused.value) == "INSTANCE_NOT_FOUND"
