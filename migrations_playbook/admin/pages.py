"""The pages: all replacements, one of them, and what may be done from there.

They read, and change what `backfill --pause`, `--resume` and `--set` change; nothing else.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import Error as DatabaseError
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST, require_safe

from migrations_playbook.admin.forms import RetuneForm
from migrations_playbook.admin.places import Place, find_place, list_places
from migrations_playbook.admin.sight import watch_place
from migrations_playbook.admin.standing import (
    REST_EVERY,
    NextStep,
    explain,
    read_details,
    read_standing,
)
from migrations_playbook.admin.verdicts import read_report
from migrations_playbook.backfill.pacing.control import Control, change_control
from migrations_playbook.backfill.play import fillable_table
from migrations_playbook.errors import PlaybookError
from migrations_playbook.models import Playbook
from migrations_playbook.phase import Phase
from migrations_playbook.postgres.query import adopt_transaction
from migrations_playbook.postgres.sessions import postgresql

# The query by which the script asks for what changes, and for nothing else of a page.
LIVE = "live"
ACTS = ("pause", "resume", "retune")


class PlaybookAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in its stubs only
    """The replacements in the admin."""

    def get_urls(self) -> list[URLPattern | URLResolver]:  # type: ignore[override]
        """Add an address for each act to the admin's own."""
        acts: list[URLPattern | URLResolver] = [
            path(
                f"<path:object_id>/{act}/",
                self.admin_site.admin_view(require_POST(getattr(self, act))),
                name=f"migrations_playbook_playbook_{act}",
            )
            for act in ACTS
        ]
        return [*acts, *super().get_urls()]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: a model declares a replacement."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Playbook | None = None) -> bool:
        """Refuse: each act has a permission of its own."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Playbook | None = None) -> bool:
        """Refuse: the contract ends a replacement."""
        return False

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Playbook | None:
        """Find a replacement, for the admin's history."""
        return Playbook(name=object_id) if find_place(object_id) else None

    @method_decorator(require_safe)
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show every replacement in every database."""
        self._demand(request, "view")
        context: dict[str, Any] = {"standings": [], "problem": None}
        try:
            standings = [read_standing(each) for each in list_places()]
        except PlaybookError as error:
            context["problem"] = str(error)
        else:
            # As the status: of another time, neither the models nor the database have it any more.
            context["standings"] = [
                each for each in standings if each.place.declared or each.phase is not Phase.NONE
            ]
        context["every"] = min((each.every for each in context["standings"]), default=REST_EVERY)
        return self._render(request, "list", "Replacements", context)

    @method_decorator(require_safe)
    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a replacement; `?live` gives what changes while a backfill runs."""
        self._demand(request, "view")
        return self._show(request, self._find(object_id))

    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let every backfill of a replacement wait, as `backfill --pause` does."""
        return self._act(request, self._find(object_id), "pause", {"paused": True})

    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let every backfill go on, as `backfill --resume` does."""
        return self._act(request, self._find(object_id), "resume", {"paused": False})

    def retune(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Change the pace of every backfill, as `backfill --set` does."""
        self._demand(request, "view", "retune")
        place = self._find(object_id)
        form = RetuneForm.showing(Control(), request.POST)
        if not form.is_valid():
            return self._show(request, place, form)
        return self._act(request, place, "retune", form.changes)

    def _act(
        self, request: HttpRequest, place: Place, act: str, changes: dict[str, Any]
    ) -> HttpResponse:
        """Change the settings of all running backfills, and log who has done so."""
        self._demand(request, "view", act)
        try:
            now = self._change(request, place, act, changes)
        except (PlaybookError, DatabaseError) as error:
            self.message_user(request, explain(error), messages.ERROR)
        else:
            self.message_user(request, f"Set for every worker on every host: {now}.")
        watch_place(place).forget()
        address = reverse(
            "admin:migrations_playbook_playbook_change",
            args=[quote(str(place))],
            current_app=self.admin_site.name,
        )
        return HttpResponseRedirect(address)

    def _change(
        self, request: HttpRequest, place: Place, act: str, changes: dict[str, Any]
    ) -> Control:
        connection = postgresql(place.using)
        # No act without its entry in the log, and no entry without its act.
        with transaction.atomic(using=router.db_for_write(LogEntry)):
            adopt_transaction(connection)
            said = ", ".join(f"{name}={value}" for name, value in changes.items())
            self.log_change(request, Playbook(name=str(place)), f"{act}: {said or 'nothing'}")
            table = fillable_table(connection, place.replacement)
            return change_control(connection, place.replacement, table, **changes)

    def _show(
        self, request: HttpRequest, place: Place, form: RetuneForm | None = None
    ) -> HttpResponse:
        standing = read_standing(place)
        context: dict[str, Any] = {"standing": standing, "every": standing.every}
        if LIVE not in request.GET:
            details, why_not = read_details(standing)
            context |= {
                "details": details,
                "why_not": why_not,
                "next": details and NextStep.of(details.next),
                "report": read_report(place.replacement),
                "may": {act: self._may(request, act) for act in ACTS},
                "form": form or RetuneForm.showing(standing.settings),
            }
        return self._render(request, "replacement", str(place), context)

    def _render(
        self, request: HttpRequest, template: str, title: str, context: dict[str, Any]
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        context |= {"opts": self.opts, "title": title}
        live = LIVE in request.GET
        if not live:
            context = {**self.admin_site.each_context(request), **context}
        name = f"{self.opts.app_label}/{template}{'_live' if live else ''}.html"
        return TemplateResponse(request, name, context)

    def _find(self, object_id: str) -> Place:
        try:
            place = find_place(unquote(object_id))
        except PlaybookError as error:
            raise Http404(str(error)) from None
        if place is None:
            raise Http404("There is no such replacement.")
        return place

    def _may(self, request: HttpRequest, act: str) -> bool:
        """Tell whether the user has the permission for an act."""
        return request.user.has_perm(f"{self.opts.app_label}.{act}_{self.opts.model_name}")

    def _demand(self, request: HttpRequest, *acts: str) -> None:
        if not all(self._may(request, act) for act in acts):
            raise PermissionDenied
