//! `TaskService`.

use phasegate_page_token::{cut, page_size};
use phasegate_principal::Principal;
use phasegate_proto::instance::v1::task_service_server::TaskService;
use phasegate_proto::instance::v1::{
    GetTaskRequest, GetTaskResponse, ListTasksRequest, ListTasksResponse, RetryTaskRequest,
    RetryTaskResponse, SkipTaskRequest, SkipTaskResponse, Task, TaskStatus,
};
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use super::convert::{not_a_state, once, respond};
use super::instance::task_id;
use super::refusal::{refuse, refuse_about};
use super::view;
use crate::app::{Error, Outcome};
use crate::domain::{Action, Rejection};

fn shown(outcome: &Outcome, id: &str) -> Result<Task, Error> {
    let found = view::task(outcome, id);
    found.map_or_else(|| Err(Error::Rejected(Rejection::TaskNotFound(task_id(id)?))), Ok)
}

#[async_trait]
impl TaskService for Api {
    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let principal = Principal::of(&request)?;
        let wanted = request.get_ref();
        let id = &wanted.instance_id;
        let size = page_size(wanted.page_size).map_err(|invalid| refuse(invalid.into()))?;
        if wanted.status != 0 && wanted.status() == TaskStatus::Unspecified {
            let allowed = "pending, ready, running, awaiting_approval, completed, blocked, escalated, failed, \
                           skipped, cancelled";
            return Err(refuse(not_a_state(allowed).into()));
        }
        let scope = format!("ListTasks\n{}\n{id}\n{}", principal.tenant, wanted.status);
        let after: Option<usize> =
            self.pages.decode(&scope, &wanted.page_token).map_err(|invalid| refuse(invalid.into()))?;
        let outcome = self.app.instance_get(principal, id).await.map_err(refuse_about(id))?;
        // Tasks never move in a definition, so a place in it is a place for ever.
        let written = view::written_tasks(&outcome.pinned.definition).enumerate();
        let found = written
            .skip(after.unwrap_or(0))
            .filter_map(|(place, (_, task))| Some((place, view::task(&outcome, &task.id)?)))
            .filter(|(_, task)| wanted.status == 0 || task.status == wanted.status);
        let (places, mut tasks): (Vec<usize>, Vec<Task>) = found.take(size + 1).unzip();
        let is_last = cut(&mut tasks, size);
        let next = places.get(tasks.len()).filter(|_| !is_last);
        let next_page_token = next.map(|place| self.pages.encode(&scope, place)).unwrap_or_default();
        Ok(Response::new(ListTasksResponse { tasks, next_page_token }))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let principal = Principal::of(&request)?;
        let wanted = request.get_ref();
        let id = &wanted.instance_id;
        let outcome = self.app.instance_get(principal, id).await.map_err(refuse_about(id))?;
        let task = shown(&outcome, &wanted.task_id).map_err(refuse_about(id))?;
        Ok(Response::new(GetTaskResponse { task: Some(task) }))
    }

    async fn retry_task(
        &self,
        request: Request<RetryTaskRequest>,
    ) -> Result<Response<RetryTaskResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "RetryTask", &request.request_id, &request)?;
        let id = &request.instance_id;
        let task = task_id(&request.task_id).map_err(refuse_about(id))?;
        let make =
            |outcome: &Outcome| Ok(RetryTaskResponse { task: Some(shown(outcome, &request.task_id)?) });
        let action = Action::RetryTask { task, reason: request.reason.clone() };
        let done = self.app.operate(&principal, id, action, once, make).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }

    async fn skip_task(
        &self,
        request: Request<SkipTaskRequest>,
    ) -> Result<Response<SkipTaskResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "SkipTask", &request.request_id, &request)?;
        let id = &request.instance_id;
        let task = task_id(&request.task_id).map_err(refuse_about(id))?;
        let make = |outcome: &Outcome| Ok(SkipTaskResponse { task: Some(shown(outcome, &request.task_id)?) });
        let action = Action::SkipTask { task, reason: request.reason.clone() };
        let done = self.app.operate(&principal, id, action, once, make).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }
}
