"""Sessions: probes that are kept in MLflow with the neurons that were watched and a note."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.errors import StoreError
from neuroscope.json_text import json_text
from neuroscope.labels import counted, pair_labels, short_model, shortened
from neuroscope.reporting.logged_models import FINGERPRINT_TAG
from neuroscope.reporting.run_reader import PROMPTS_TAG, REPORT, RunReader
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.model_runs import run_files
from neuroscope.studies.probe.probe import Probe
from neuroscope.studies.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

KIND = "probe"
"""Kind of the runs; their MLflow experiment is `neuroscope/probe`."""
SESSION = "session.json"
"""Path of the artifact from which a session is opened again."""
VERSION = 1
"""Version of the document in this artifact."""
_LONGEST = 40  # characters of a prompt in the name of a run


@dataclass(frozen=True)
class WatchedNeuron:
    """Values of a watched neuron at the prompts of a session."""

    neuron: str
    values: tuple[float, ...]
    """Mean over the content tokens of each prompt."""
    z: tuple[float, ...]
    """See `StrongNeuron.z`."""
    tokens: tuple[tuple[float, ...], ...]
    """Value at every token of each prompt, special tokens included."""


@dataclass(frozen=True)
class Session:
    """Probe as it was kept, without the values of the neurons that were not watched."""

    model: str
    revision: str | None
    """Commit or version of the model; None for a folder."""
    fingerprint: str
    """SHA-256 of the model's configuration, tokenizer and weights."""
    site: str
    """Component that was read."""
    layers: tuple[int, ...]
    prompts: tuple[str, ...]
    watched: tuple[WatchedNeuron, ...]
    comparison: tuple[Mapping[str, Any], ...]
    """Rows of `ComparisonRow`."""
    note: str = ""
    view: str = ""
    """Address of the page that showed it."""
    created: str = ""
    """ISO 8601, UTC."""
    version: int = field(default=VERSION)

    @classmethod
    def of(cls, probe: Probe, watch: Sequence[str], note: str = "", view: str = "") -> "Session":
        """Return the session of a probe.

        Raises:
            SiteError: the probe has no such neuron.
        """
        source = probe.activations.provenance
        return cls(
            source.model,
            source.revision,
            source.fingerprint,
            probe.component,
            probe.layers,
            tuple(probe.activations.prompts.texts),
            tuple(_watched(probe, name) for name in dict.fromkeys(watch)),
            tuple(asdict(row) for row in probe.rows),
            note,
            view,
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def from_json(cls, text: str) -> "Session":
        """Return the session from the text that `to_json` returned.

        Raises:
            StoreError: the text is something else, or was written by another version.
        """
        try:
            document = json.loads(text)
            version = document.pop("version")
            if version == VERSION:
                watched = tuple(_from_json(WatchedNeuron, own) for own in document.pop("watched"))
                session: Session = _from_json(cls, document | {"watched": watched})
                return session
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StoreError(f"{SESSION} is damaged ({error})", remedy="save it again") from error
        raise StoreError(
            f"the session has version {version}; this neuroscope reads version {VERSION}",
            remedy="install the version that saved it",
        )

    def to_json(self) -> str:
        """Return the session as JSON with a version."""
        return json_text(asdict(self))

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per watched neuron and prompt, with model, date, value and z."""
        import pandas as pd

        rows = [
            (self.model, self.created, own.neuron, prompt, value, z)
            for own in self.watched
            for prompt, value, z in zip(self.prompts, own.values, own.z, strict=True)
        ]
        return pd.DataFrame(rows, columns=["model", "created", "neuron", "prompt", "value", "z"])

    @property
    def headline(self) -> str:
        """Sentence on what was kept."""
        return (
            f"{counted(len(self.prompts), 'prompt')}, {counted(len(self.watched), 'neuron')}"
            f" watched at {self.site} of {short_model(self.model)}."
        )


def _watched(probe: Probe, name: str) -> WatchedNeuron:
    layer, unit = probe.place_of(name)
    return WatchedNeuron(
        name,
        tuple(probe.values(layer)[:, unit].tolist()),
        tuple(probe.z(layer)[:, unit].tolist()),
        tuple(tuple(values.tolist()) for values in probe.at_tokens(name)),
    )


def _from_json(cls: Any, document: Mapping[str, Any]) -> Any:
    """Return an instance of a frozen class; lists become tuples."""
    return cls(**{name: _frozen(value) for name, value in document.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class SessionEntry:
    """Session in the list of all sessions."""

    run_id: str
    name: str
    started: str
    """ISO 8601, UTC."""
    model: str
    site: str
    prompts: int
    watched: int
    note: str
    address: str
    """Page of the run in MLflow; empty if no server shows it."""


def save_session(
    tracker: Tracker,
    probe: Probe,
    watch: Sequence[str] = (),
    note: str = "",
    view: str = "",
) -> str:
    """Record a probe as a run in MLflow, and return the id of the run.

    Args:
        tracker: tracker that records the run.
        probe: probe to keep.
        watch: names of the neurons whose values are kept.
        note: text to find the session by.
        view: address of the page that showed it.

    Raises:
        SiteError: the probe has no such neuron.
        TrackingError: MLflow cannot be reached.
        ResourceError: the disk is full.
    """
    session = Session.of(probe, watch, note, view)
    tags = {
        "neuroscope.model": session.model,
        FINGERPRINT_TAG: session.fingerprint,
        PROMPTS_TAG: probe.activations.prompts.digest,
    }
    params = {
        "model_name": session.model,
        "site": session.site,
        "prompts": len(session.prompts),
        "watched": len(session.watched),
        "note": note,
        "texts": " | ".join(session.prompts),  # by which it is found, too
    }
    with tracker.run(KIND, _name(session), tags=tags, note=note) as run:
        run.log_params(params)
        run.log_prompts(probe.activations.prompts, "probe", "tables/prompts.csv")
        with run_files(run) as path:
            _write_files(RunFolder(path), session, probe, run.links)
        run.describe(session.headline, REPORT)
    return run.id


def _name(session: Session) -> str:
    """Return the name of a run: the model and what tells its prompts apart."""
    first, *others = session.prompts
    if len(others) == 1:
        words = pair_labels([(first, others[0])])[first, others[0]]
    else:
        more = f" and {len(others)} more" if others else ""
        words = f"{shortened(first, _LONGEST)}{more}"
    return f"{short_model(session.model)} {words}"


def _write_files(
    folder: RunFolder, session: Session, probe: Probe, links: Mapping[str, str]
) -> None:
    """Write the files of a session's run."""
    (folder.path / SESSION).write_text(session.to_json(), encoding="utf-8")
    folder.prompts(probe.activations.prompts)
    folder.table("watched", session.to_frame())
    if probe.rows:
        folder.table("compare", probe.rows)
    folder.report(
        ("neuroscope.studies.probe", "page.html.j2"),
        _name(session),
        headline=session.headline,
        note=session.note,
        warnings=probe.notes,
        provenance=probe.activations.provenance.to_dict(),
        links=links,
        component=session.site,
        watched=_watched_table(session),
        shown_prompts=session.prompts,
    )


def _watched_table(session: Session) -> Table:
    """Return the values of the watched neurons as a table."""
    columns = [
        Column("neuron"),
        Column("prompt"),
        Column("value", meaning="mean over the prompt's tokens"),
        Column("z", meaning="standard deviations from the mean over the reference sentences"),
    ]
    names = ["neuron", "prompt", "value", "z"]
    rows = [list(row) for row in session.to_frame()[names].itertuples(index=False)]
    return Table("Watched neurons", columns, [Section("", rows)])


def list_sessions(reader: RunReader, search: str = "") -> list[SessionEntry]:
    """Return the recorded sessions, newest first.

    Args:
        reader: connection to MLflow.
        search: text that occurs in the name, model, site, note or prompts; empty for all.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    wanted = search.casefold()
    searched = ("model_name", "site", "note", "texts")
    return [
        SessionEntry(
            run.id,
            run.name,
            run.started.isoformat(timespec="seconds"),
            run.params.get("model_name", ""),
            run.params.get("site", ""),
            int(run.params.get("prompts", 0)),
            int(run.params.get("watched", 0)),
            run.params.get("note", ""),
            reader.page_of(run),
        )
        for run in reader.find_runs(KIND)
        if wanted in " ".join([run.name, *(run.params.get(key, "") for key in searched)]).casefold()
    ]


def read_session(reader: RunReader, run_id: str) -> Session:
    """Return a recorded session.

    Raises:
        TrackingError: there is no such run, it is not a session, or MLflow cannot be reached.
        StoreError: the session was saved by another version.
    """
    path: Path = reader.artifact(run_id, SESSION)
    return Session.from_json(path.read_text(encoding="utf-8"))
