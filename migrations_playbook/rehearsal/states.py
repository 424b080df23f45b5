"""The four releases, as they follow from a project's migrations.

| release | its code knows  | its database                                          |
|---------|-----------------|-------------------------------------------------------|
| N       | the live column | every migration but the expand and what depends on it |
| N+1     | both columns    | every migration                                       |
| N+2     | what stays      | as N+1                                                |
| N+3     | what stays      | contracted                                            |

N and N+1 are points in the history. N+2 and N+3 are derived: a field is taken out of the state, and
then its column is dropped, as the migrations that a project is yet to write will do. The live
column stays, of the new type where that is another; of a column that moves the shadow does.
Each release's models are built from its state: no release needs code of its own, and no client runs
the project's save(), managers, or receivers of the model's signals.
"""

from __future__ import annotations

from typing import Literal

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

from migrations_playbook.commands import spell_command
from migrations_playbook.contract.ensure import EnsureSwapped
from migrations_playbook.errors import PlaybookError
from migrations_playbook.rehearsal.plots.kinds import plot_of
from migrations_playbook.replacement import Replacement

Release = Literal["N", "N+1", "N+2", "N+3"]
# A migration as its graph has it: the app's label and the migration's name.
MigrationKey = tuple[str, str]


class ReleaseStates:
    """A project's migrations, before and after the expand of a shadow column.

    Arguments:
        connection: says which squashed migrations stand in for others.
        replacement: the declared shadow.

    Raises:
        PlaybookError: no migration adds the shadow column, or the same migration makes its table,
            or a migration fills and swaps by itself.
    """

    def __init__(self, connection: BaseDatabaseWrapper, replacement: Replacement) -> None:
        options = replacement.model._meta
        self._label = replacement.label
        self._model = (options.app_label, str(options.model_name))
        self._shadow = replacement.declaration.shadow
        self._plot = plot_of(replacement)
        self._loader = MigrationLoader(connection)
        self.expand = self._find_expand()
        self._refuse_unattended()

    @property
    def has_more(self) -> bool:
        """Whether release N+1 brings migrations besides the expand."""
        return len(self._loader.graph.backwards_plan(self.expand)) > 1

    def before(self) -> list[MigrationKey]:
        """List the targets of `migrate` for release N: the last migrations that need no expand.

        Returns:
            A key for each of the graph's ends, once the expand and all its dependents are taken
            away.
        """
        graph = self._loader.graph
        needed = set(graph.nodes) - set(graph.backwards_plan(self.expand))
        return sorted(
            key
            for key in needed
            if not any(child.key in needed for child in graph.node_map[key].children)
        )

    def read_state(self, release: Release) -> ProjectState:
        """Build the state of a release's models.

        Returns:
            A state of the caller's own.
        """
        if release == "N":
            return self._loader.project_state(self.before())
        state = self._loader.project_state()
        if release != "N+1":
            self._plot.forget(state)
        return state

    def read_model(self, release: Release) -> type[models.Model]:
        """Build the model of a release."""
        return self.read_state(release).apps.get_model(*self._model)

    def _find_expand(self) -> MigrationKey:
        """Find the migration that adds the shadow field to an existing table."""
        app_label = self._model[0]
        state = ProjectState(real_apps=self._loader.unmigrated_apps)
        graph = self._loader.graph
        expand: MigrationKey | None = None
        has = False
        for key in dict.fromkeys(
            each for leaf in graph.leaf_nodes(app_label) for each in graph.forwards_plan(leaf)
        ):
            had_model, had = self._model in state.models, has
            state = graph.nodes[key].mutate_state(state, preserve=False)
            model = state.models.get(self._model)
            has = model is not None and self._shadow in model.fields
            if has and not had:
                expand = key if had_model else None
        if not has:
            raise PlaybookError(
                f"By its migrations {self._label} has no {self._shadow!r}, so there is nothing to "
                f'rehearse yet. Run "{spell_command("expand", self._label, self._shadow)}" first.'
            )
        if expand is None:
            raise PlaybookError(
                f"The migration that adds {self._shadow!r} makes the table of {self._label} too, "
                "so there is no release before it. Rehearse with the migrations as they were "
                "before they were squashed."
            )
        return expand

    def _refuse_unattended(self) -> None:
        """Refuse a migration that would leave nothing to be played."""
        for key in self._loader.graph.backwards_plan(self.expand):
            operations = self._loader.graph.nodes[key].operations
            if any(
                isinstance(each, EnsureSwapped) and each.shadow == self._shadow
                for each in operations
            ):
                raise PlaybookError(
                    f"The migration {'.'.join(key)} fills and swaps {self._label} by itself "
                    "(EnsureSwapped), so nothing would be left to rehearse. Rehearse without that "
                    "migration."
                )
