"""/console/tasks/new: a task by hand, or like another. The API's own rules say what will do, in its words."""

import hashlib

from aiohttp import web

from libs.common.clock import Clock, format_utc
from libs.common.contracts import decode_call
from libs.common.egress import EgressRules
from libs.common.host import host_of
from libs.common.ids import derived_id
from libs.common.publisher import NotPublished
from services.ingest.console.forms import back, posted
from services.ingest.console.guard import audit_note
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.task_form import TaskForm, blank, checked, clone_of, document, new_key, told, typed
from services.ingest.creation import Sender, this_millisecond
from services.ingest.creator import TaskCreator
from services.ingest.lookup import found
from services.ingest.problems import Problem
from services.ingest.replays import FindsTasks
from services.ingest.requests import NewTask


class NewTaskPages:
    def __init__(
        self, creator: TaskCreator, history: FindsTasks, clock: Clock, egress: EgressRules, body_bytes_max: int
    ) -> None:
        self._creator = creator
        self._history = history
        self._clock = clock
        self._egress = egress
        self._body_bytes_max = body_bytes_max

    def pages(self) -> list[Page]:
        path = "/tasks/new"
        return [
            Page(method="GET", path=path, handler=self.ask, role="operator"),
            Page(method="POST", path=path, handler=self.create, role="operator", action="task.create"),
        ]

    async def ask(self, request: web.Request) -> web.StreamResponse:
        source = request.query.get("from")
        if source is None:
            return await _form_page(request, blank())
        task = await found(self._history, visitor_of(request).project, source)
        if not task.has_payload:
            raise Problem(409, "payload_gone", "What the task sends has been purged. Create a new task.")
        return await _form_page(request, clone_of(task, decode_call(task.call)))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """One task, however often the same form is sent."""
        project, form = visitor_of(request).project, typed(posted(request))
        made = document(form.values, self._body_bytes_max)
        sender = Sender(
            id=derived_id(project, "console", form.key),
            project=project,
            fingerprint=hashlib.sha256(made.raw).hexdigest(),
            now=this_millisecond(self._clock.now()),
        )
        try:
            new = checked(made, sender, self._egress)
        except Problem as problem:
            return await _form_page(request, form._replace(faults=told(problem)), status=422)
        audit_note(request, str(sender.id), host=host_of(new.url), method=new.method)
        return await self._created(request, new, sender, form)

    async def _created(self, request: web.Request, new: NewTask, sender: Sender, form: TaskForm) -> web.StreamResponse:
        path = f"/tasks/{sender.id}"
        try:
            task, is_replay = await self._creator.create_once(new, sender)
        except NotPublished:
            detail = "The message broker did not confirm in time. Send the form again: it makes one task all the same."
            return await _form_page(request, form._replace(faults={"": [detail]}), status=503)
        except Problem as problem:
            if problem.code == "in_progress":  # a double click: the first one does it
                return await back(request, path, told="The task is being made.")
            detail = problem.detail
            if problem.code == "idempotency_key_reused":
                detail = f"This form has made the task {sender.id} from other values. Send it again to make another."
            return await _form_page(request, form._replace(key=new_key(), faults={"": [detail]}), status=problem.status)
        text = "This form has made its task already: here it is." if is_replay else (
            f"Created: it is called at {format_utc(task.due_at)}."
        )  # fmt: skip
        return await back(request, path, told=text)


async def _form_page(request: web.Request, form: TaskForm, *, status: int = 200) -> web.StreamResponse:
    return await render(request, "task_new.html", status=status, form=form, source=request.query.get("from"))
