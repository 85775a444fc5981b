"""The tables. Times are Unix seconds; secrets are kept as sha256 (tokens) or scrypt (passwords) only."""

from __future__ import annotations

from typing import ClassVar, Final

from sqlalchemy import Double, ForeignKey, Index, LargeBinary, MetaData, UniqueConstraint
from sqlalchemy import text as sql_text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from obt_server.store.column_types import PlainText, WholeNumber

SCHEMA_VERSION: Final = 10
"""The number of the newest revision."""
REVISION_TABLE: Final = "obt_revision"


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData()
    # A number is a double by itself since SQLAlchemy 2.1 alone.
    type_annotation_map: ClassVar = {str: PlainText(), int: WholeNumber, float: Double()}


class Revision(Table):
    """One row, which is Alembic's: the number of the last of ``migrations/versions`` that was made."""

    __tablename__ = REVISION_TABLE
    version_num: Mapped[str] = mapped_column(PlainText(32), primary_key=True)


class Schema(Table):
    """One row: what releases before ``Revision`` look at, which refuse a number above theirs, 7."""

    __tablename__ = "obt_schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class AgentRow(Table):
    """An enrolled agent. No two have one ``name``; ``given_name`` is the operator's, and then the name.

    ``capabilities``, ``labels`` (the operators') and ``own_labels`` (its configuration's) are lists as JSON.
    """

    __tablename__ = "obt_agents"
    id: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    name: Mapped[str] = mapped_column(PlainText(200), index=True)
    given_name: Mapped[str | None] = mapped_column(PlainText(200))
    version: Mapped[str] = mapped_column(PlainText(200), default="")
    session: Mapped[int] = mapped_column(default=0)
    store_id: Mapped[str | None] = mapped_column(PlainText(200))
    capabilities: Mapped[str] = mapped_column(default="[]")
    labels: Mapped[str] = mapped_column(default="[]")
    own_labels: Mapped[str] = mapped_column(default="[]")
    enrolled_at: Mapped[float]
    last_seen: Mapped[float | None]
    rotation_requested_at: Mapped[float | None]
    # When its list of models was stored last; what the first list of all has is no change of a model.
    models_at: Mapped[float | None]
    # The server process that has the session; null where it ended, and where one server is alone.
    replica: Mapped[str | None] = mapped_column(PlainText(64))


class FormerAgentRow(Table):
    """An agent that was deleted, and its last session: one that enrols again gets no number a second time.

    Of a session that is over other processes may still have something to say, or to write.
    """

    __tablename__ = "obt_former_agents"
    id: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    session: Mapped[int]


class CredentialRow(Table):
    """A hash that an agent may come with."""

    __tablename__ = "obt_credentials"
    __table_args__ = ({"sqlite_autoincrement": True},)  # a live session knows its credential by this number
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"), index=True)
    sha256: Mapped[str] = mapped_column(PlainText(64), unique=True)
    state: Mapped[str] = mapped_column(PlainText(16))
    created_at: Mapped[float]
    last_used_at: Mapped[float | None]


class JoinTokenRow(Table):
    """A one-time permission to enrol. Kept after use, so that a repeat is answered alike."""

    __tablename__ = "obt_join_tokens"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sha256: Mapped[str] = mapped_column(PlainText(64), unique=True)
    note: Mapped[str] = mapped_column(PlainText(200), default="")
    agent_id: Mapped[str | None] = mapped_column(PlainText(64))
    created_at: Mapped[float]
    expires_at: Mapped[float]
    revoked_at: Mapped[float | None]
    used_at: Mapped[float | None]
    used_by: Mapped[str | None] = mapped_column(PlainText(64))
    used_secret_sha256: Mapped[str | None] = mapped_column(PlainText(64))


class JoinPinRow(Table):
    """The pin of a key that join tokens name, as the server that ran last has it."""

    __tablename__ = "obt_join_pins"
    position: Mapped[int] = mapped_column(primary_key=True)
    pin: Mapped[str] = mapped_column(PlainText(64))


class ModelVersionRow(Table):
    """A digest seen under a name on an agent."""

    __tablename__ = "obt_model_versions"
    __table_args__ = (
        UniqueConstraint("agent_id", "name", "digest"),
        Index("obt_versions_by_name", "name"),
        Index("obt_versions_of_agent", "agent_id", "current", "last_seen"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(PlainText(512))
    digest: Mapped[str] = mapped_column(PlainText(128))
    current: Mapped[bool]
    first_seen: Mapped[float]
    last_seen: Mapped[float]
    # The last column, so that SQLite reads the others without its overflow pages.
    details: Mapped[bytes] = mapped_column(LargeBinary)


class HardwareRow(Table):
    """An agent's inventory, as JSON."""

    __tablename__ = "obt_hardware"
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"), primary_key=True)
    fingerprint: Mapped[str]
    inventory: Mapped[bytes] = mapped_column(LargeBinary)
    updated_at: Mapped[float]


class JobRow(Table):
    """A job; ``sha256`` and ``bytes`` are set exactly when its result is stored."""

    __tablename__ = "obt_jobs"
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(PlainText(128), primary_key=True, index=True)
    kind: Mapped[str] = mapped_column(PlainText(16))
    state: Mapped[str] = mapped_column(PlainText(16), index=True)
    params: Mapped[bytes] = mapped_column(LargeBinary)
    model: Mapped[str | None] = mapped_column(PlainText(512), index=True)
    model_digest: Mapped[str | None] = mapped_column(PlainText(128))
    created_at: Mapped[float] = mapped_column(index=True)
    started_session: Mapped[int | None]
    finished_at: Mapped[float | None]
    error: Mapped[bytes | None] = mapped_column(LargeBinary)
    bytes: Mapped[int | None]
    sha256: Mapped[str | None] = mapped_column(PlainText(64))


class ResultRow(Table):
    """The text of a job's result. ``accepted`` is the first one; others are set aside, and kept."""

    __tablename__ = "obt_results"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"))
    job_id: Mapped[str] = mapped_column(PlainText(128))
    sha256: Mapped[str] = mapped_column(PlainText(64))
    accepted: Mapped[bool]
    stored_at: Mapped[float]
    text: Mapped[bytes] = mapped_column(LargeBinary)
    __table_args__ = (
        UniqueConstraint("agent_id", "job_id", "sha256"),
        # The database itself keeps a job from having two results, whatever writes there.
        Index(
            "obt_results_accepted",
            "agent_id",
            "job_id",
            unique=True,
            postgresql_where=sql_text("accepted"),
            sqlite_where=sql_text("accepted"),
        ),
    )


class DigestRow(Table):
    """What lists show of a stored result, computed once. ``sha256`` is that of the result's text."""

    __tablename__ = "obt_result_digests"
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(PlainText(128), primary_key=True)
    sha256: Mapped[str] = mapped_column(PlainText(64))
    digest: Mapped[bytes] = mapped_column(LargeBinary)


class PlanVersionRow(Table):
    """A version of a plan that an operator saved under a name, as JSON, without a model.

    ``deleted``: the name is gone; campaigns and results of the version still say what was measured.
    """

    __tablename__ = "obt_plan_versions"
    name: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str | None] = mapped_column(PlainText(64), index=True)
    plan: Mapped[bytes] = mapped_column(LargeBinary)
    comment: Mapped[str | None] = mapped_column(PlainText(500))
    saved_at: Mapped[float]
    saved_by: Mapped[str] = mapped_column(PlainText(200))
    deleted: Mapped[bool]


class PartRow(Table):
    """A piece of a result whose final has not come."""

    __tablename__ = "obt_result_parts"
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(PlainText(128), primary_key=True)
    offset: Mapped[int] = mapped_column(primary_key=True)
    # A piece's length is asked of this column, whose header tells it; reading ``size`` would read the data.
    data: Mapped[bytes] = mapped_column(LargeBinary)
    size: Mapped[int]


class RolloutRow(Table):
    """An action on one model, on several machines. ``spec`` is what a creation is made from, as JSON."""

    __tablename__ = "obt_rollouts"
    id: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    key: Mapped[str | None] = mapped_column(PlainText(128), unique=True)
    action: Mapped[str] = mapped_column(PlainText(16))
    model: Mapped[str] = mapped_column(PlainText(512), index=True)
    destination: Mapped[str | None] = mapped_column(PlainText(512))
    digest: Mapped[str | None] = mapped_column(PlainText(128))
    spec: Mapped[bytes | None] = mapped_column(LargeBinary)
    parallelism: Mapped[int]
    offline: Mapped[str] = mapped_column(PlainText(16))
    until: Mapped[float | None]
    model_set: Mapped[str | None] = mapped_column(PlainText(64))
    state: Mapped[str] = mapped_column(PlainText(16), index=True)
    created_at: Mapped[float] = mapped_column(index=True)
    created_by: Mapped[str] = mapped_column(PlainText(200))
    finished_at: Mapped[float | None]
    cancelling: Mapped[bool]


class RolloutTargetRow(Table):
    """What a rollout did on one machine. ``detail`` is the whole as JSON; the columns are what is counted.

    No foreign key to the agent: what was done stays known when a machine is forgotten.
    """

    __tablename__ = "obt_rollout_targets"
    rollout_id: Mapped[str] = mapped_column(ForeignKey(RolloutRow.id, ondelete="CASCADE"), primary_key=True)
    agent_id: Mapped[str] = mapped_column(PlainText(64), primary_key=True, index=True)
    position: Mapped[int]
    state: Mapped[str] = mapped_column(PlainText(16))
    completed_bytes: Mapped[int | None]
    total_bytes: Mapped[int | None]
    detail: Mapped[bytes] = mapped_column(LargeBinary)


class CampaignRow(Table):
    """A campaign. ``content`` is the whole as JSON; the columns are what is looked for."""

    __tablename__ = "obt_campaigns"
    id: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    key: Mapped[str | None] = mapped_column(PlainText(128), unique=True)
    schedule: Mapped[str | None] = mapped_column(PlainText(64), index=True)
    state: Mapped[str] = mapped_column(PlainText(16), index=True)
    judged: Mapped[bool]
    created_at: Mapped[float] = mapped_column(index=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class CampaignCellRow(Table):
    """A cell of a campaign. ``detail`` is the whole as JSON; the columns are what is counted and looked for.

    No foreign key to the agent: what was measured stays known when a machine is forgotten.
    """

    __tablename__ = "obt_campaign_cells"
    campaign_id: Mapped[str] = mapped_column(ForeignKey(CampaignRow.id, ondelete="CASCADE"), primary_key=True)
    cell_id: Mapped[str] = mapped_column(PlainText(16), primary_key=True)
    position: Mapped[int]
    agent_id: Mapped[str] = mapped_column(PlainText(64))
    state: Mapped[str] = mapped_column(PlainText(16), index=True)
    job_id: Mapped[str | None] = mapped_column(PlainText(128))
    detail: Mapped[bytes] = mapped_column(LargeBinary)


class BaselineRow(Table):
    """The result that a machine's model (its key) and plan are compared with."""

    __tablename__ = "obt_baselines"
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(PlainText(512), primary_key=True)
    plan_hash: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(PlainText(128))
    at: Mapped[float]
    by: Mapped[str] = mapped_column(PlainText(200))


class VerdictsRow(Table):
    """What the comparison of a campaign with its baselines gave, as JSON that is compressed."""

    __tablename__ = "obt_verdicts"
    campaign_id: Mapped[str] = mapped_column(ForeignKey(CampaignRow.id, ondelete="CASCADE"), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class RegressionRow(Table):
    """A verdict that said slower; it and ``acknowledged`` are JSON, the latter null while it is open.

    No foreign keys: what was found stays known when a campaign or a machine is forgotten.
    """

    __tablename__ = "obt_regressions"
    __table_args__ = (
        Index("obt_regressions_of_line", "agent_id", "model", "plan_hash", "metric"),
        {"sqlite_autoincrement": True},  # a number that was acknowledged never means another regression
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    campaign_id: Mapped[str] = mapped_column(PlainText(64))
    at: Mapped[float] = mapped_column(index=True)
    last_at: Mapped[float]
    last_campaign_id: Mapped[str] = mapped_column(PlainText(64))
    agent_id: Mapped[str] = mapped_column(PlainText(64))
    model: Mapped[str] = mapped_column(PlainText(512))
    plan_hash: Mapped[str] = mapped_column(PlainText(64))
    metric: Mapped[str] = mapped_column(PlainText(64))
    verdict: Mapped[bytes] = mapped_column(LargeBinary)
    acknowledged: Mapped[bytes | None] = mapped_column(LargeBinary)


class ScheduleRow(Table):
    """A schedule, as JSON."""

    __tablename__ = "obt_schedules"
    name: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class ScheduleRunRow(Table):
    """What became of one time at which a schedule was due, as JSON."""

    __tablename__ = "obt_schedule_runs"
    schedule: Mapped[str] = mapped_column(ForeignKey(ScheduleRow.name, ondelete="CASCADE"), primary_key=True)
    due_at: Mapped[float] = mapped_column(primary_key=True)
    detail: Mapped[bytes] = mapped_column(LargeBinary)


class ChangeCauseRow(Table):
    """Who is about to change a model on a machine; see ``ChangeCause``."""

    __tablename__ = "obt_change_causes"
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(PlainText(512), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(PlainText(128))
    rollout_id: Mapped[str | None] = mapped_column(PlainText(64))
    model_set: Mapped[str | None] = mapped_column(PlainText(64))
    operator: Mapped[str | None] = mapped_column(PlainText(200))
    expires_at: Mapped[float]


class ModelChangeRow(Table):
    """A change of a model on a machine."""

    __tablename__ = "obt_model_changes"
    __table_args__ = (
        Index("obt_changes_of_agent", "agent_id", "id"),
        Index("obt_changes_by_name", "name", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[float]
    agent_id: Mapped[str] = mapped_column(ForeignKey(AgentRow.id, ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(PlainText(512))
    digest_before: Mapped[str | None] = mapped_column(PlainText(128))
    digest_after: Mapped[str | None] = mapped_column(PlainText(128))
    rollout_id: Mapped[str | None] = mapped_column(PlainText(64))
    model_set: Mapped[str | None] = mapped_column(PlainText(64))
    operator: Mapped[str | None] = mapped_column(PlainText(200))


class ModelSetRow(Table):
    """A model set, as JSON."""

    __tablename__ = "obt_model_sets"
    name: Mapped[str] = mapped_column(PlainText(64), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
