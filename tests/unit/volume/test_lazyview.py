"""What connects a lazy view's job with those who read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from modelcsi.artifact.entries import EntryType, FileEntry
from modelcsi.errors import CorruptContent, FinalError, NotFound, PullPending, RegistryUnavailable
from modelcsi.oci.digest import Digest
from modelcsi.pull.job import PullJob
from modelcsi.store.layout import LazyViewFiles, StoreLayout
from modelcsi.view.fill import FileState, FillMap
from modelcsi.view.plan import PlannedEntry, ViewPlan, plan_of
from modelcsi.view.wire import Ahead, Changed, ToServer, Want
from modelcsi.volume.lazyview import LazyView

VIEW = "0" * 64
WEIGHTS, TAR, PACKED = (Digest.of(text) for text in (b"weights", b"tar", b"packed"))


class Asked:
    """What a view asked of its job, to be answered by the test."""

    def __init__(self, what: tuple[object, ...], done: Callable[[Exception | None], None]) -> None:
        self.what, self.done = what, done
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Job:
    """As much of a PullJob as a view knows."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.hints: list[tuple[Digest, int, int]] = []

    def want(self, layer: Digest, start: int, end: int, done: Callable[[Exception | None], None]) -> Asked:
        self.asked.append(Asked((layer, start, end), done))
        return self.asked[-1]

    def want_complete(self, layer: Digest, done: Callable[[Exception | None], None]) -> Asked:
        self.asked.append(Asked((layer,), done))
        return self.asked[-1]

    def ahead(self, layer: Digest, start: int, end: int) -> None:
        self.hints.append((layer, start, end))


class News:
    """What was told."""

    def __init__(self) -> None:
        self.damages: list[Exception] = []
        self.failures: list[Exception] = []
        self.ends: list[Exception | None] = []
        self.told: list[ToServer] = []

    def damaged(self, view: LazyView, error: Exception) -> None:
        self.damages.append(error)

    def failed(self, view: LazyView, error: FinalError) -> None:
        self.failures.append(error)

    def ended(self, view: LazyView, error: Exception | None) -> None:
        self.ends.append(error)


def plan() -> ViewPlan:
    """Files: 0 of a compressed tar, 1 told, 2 and 3 of a tar (one within a directory, 4), 5 a raw one, 6 a link."""
    entries = [
        PlannedEntry(FileEntry("a-packed", EntryType.FILE, 10, layer=PACKED, member=0)),
        PlannedEntry(FileEntry("b-told", EntryType.FILE, 4, data=b"main")),
        PlannedEntry(FileEntry("c-member", EntryType.FILE, 100, layer=TAR, member=0), 512),
        PlannedEntry(FileEntry("d", EntryType.DIRECTORY)),
        PlannedEntry(FileEntry("d/member", EntryType.FILE, 50, layer=TAR, member=2), 1536),
        PlannedEntry(FileEntry("e-weights", EntryType.FILE, 1000, layer=WEIGHTS), 0),
        PlannedEntry(FileEntry("f-link", EntryType.SYMLINK, target="e-weights")),
    ]
    return plan_of(
        {"view": VIEW, "reference": "r.test/m:1", "manifest": "sha256:" + "0" * 64, "host": "r.test"}, entries
    )


@pytest.fixture
def news() -> News:
    """What the view tells."""
    return News()


@pytest.fixture
def view(tmp_path: Path, news: News) -> LazyView:
    """A view whose tree is not known."""
    return LazyView(VIEW, LazyViewFiles(tmp_path), news, news.told.append)


@pytest.fixture
def job(view: LazyView) -> Job:
    """What fills the view."""
    job = Job()
    view.observe(cast("PullJob", job))
    return job


def states(view: LazyView) -> list[FileState]:
    """As a server sees them."""
    fill = FillMap(view.files.fill, 7)
    return [fill.state(number) for number in range(7)]


def ask(view: LazyView, file: int, start: int, end: int, *, verified: bool = False) -> list[Exception | None]:
    """The answers to a question, as they come."""
    answers: list[Exception | None] = []
    view.want(Want(1, VIEW, file, start, end, verified), answers.append)
    return answers


W, A, C, F = FileState.WAITING, FileState.ARRIVING, FileState.COMPLETE, FileState.FAILED


def test_layers_open_before_and_after_the_tree_is_known(view: LazyView, job: Job) -> None:
    """What the job told before counts; a file of a compressed tar can be read only when all of it is here."""
    view.layer_opened(TAR)
    view.layer_opened(PACKED)
    view.show(plan())
    before = states(view)
    view.layer_opened(WEIGHTS)
    view.layer_complete(PACKED)

    assert [W, C, A, W, A, W, W] == before
    assert [C, C, A, W, A, A, W] == states(view)


def test_a_question_reaches_the_job_in_the_places_of_the_blob(view: LazyView, job: Job) -> None:
    """A member's bytes lie behind its header; what cannot be read in part, and what shall be verified, is waited for as a whole."""
    view.show(plan())
    answers = [ask(view, 4, 10, 20), ask(view, 5, 0, 7), ask(view, 0, 0, 1), ask(view, 5, 0, 1, verified=True)]
    view.ahead(Ahead(VIEW, 4, 20, 5000))
    job.asked[0].done(None)
    view.layer_complete(PACKED)

    assert [(TAR, 1546, 1556), (WEIGHTS, 0, 7), (PACKED,), (WEIGHTS,)] == [asked.what for asked in job.asked]
    assert [[None], [], [None], []] == answers
    assert [(TAR, 1556, 1586)] == job.hints


def test_who_has_waited_longest_is_first_with_the_next_job(view: LazyView) -> None:
    """A job that takes over asks in the order of those who wait: one who is last each time would wait for ever."""
    view.show(plan())
    for start in range(50):
        ask(view, 5, start, start + 1)
    job = Job()
    view.observe(cast("PullJob", job))

    assert [(WEIGHTS, start, start + 1) for start in range(50)] == [asked.what for asked in job.asked]


def test_what_is_here_needs_no_job(view: LazyView, job: Job) -> None:
    """It is answered at once."""
    view.show(plan())
    view.layer_complete(TAR)

    assert ([None], [None], []) == (ask(view, 2, 0, 100), ask(view, 1, 0, 4), job.asked)


def test_who_gives_up_is_not_answered(view: LazyView, job: Job) -> None:
    """Nor does the job go on for him."""
    view.show(plan())
    answers: list[Exception | None] = []
    give_up = view.want(Want(1, VIEW, 5, 0, 9), answers.append)
    give_up()
    job.asked[0].done(None)

    assert (True, []) == (job.asked[0].is_cancelled, answers)


def test_a_stopped_job_answers_nobody(view: LazyView, job: Job, news: News) -> None:
    """The driver ends, or the registry is away: the next job is asked, and the readers notice nothing."""
    view.show(plan())
    view.layer_opened(WEIGHTS)
    answers = ask(view, 5, 0, 9)
    for error in (PullPending("stopped"), RegistryUnavailable("away")):
        job.asked[0].done(error)
        view.filled(error)
    late = ask(view, 2, 0, 1)
    following = Job()
    view.observe(cast("PullJob", following))
    for asked in following.asked:
        asked.done(None)

    assert ([None], [None]) == (answers, late)
    assert (None, A) == (view.trouble, states(view)[5])


def test_a_final_error_ends_the_waiting(view: LazyView, job: Job, news: News) -> None:
    """What is not here cannot be read until another job brings it; what is verified can."""
    view.show(plan())
    view.layer_complete(TAR)
    view.layer_opened(WEIGHTS)
    answers = ask(view, 5, 0, 9)
    gone = NotFound("the blob is gone")
    view.filled(gone)
    failed = states(view)
    later = ask(view, 5, 0, 9)
    trouble = view.trouble
    view.observe(cast("PullJob", Job()))

    assert ([gone], [gone], [gone], gone) == (answers, later, news.ends, trouble)
    assert [F, C, C, W, C, F, W] == failed
    assert ([W, C, C, W, C, A, W], None) == (states(view), view.trouble)


def test_a_layer_that_is_gone_concerns_its_files_alone(view: LazyView, job: Job, news: News) -> None:
    """Who waits for another file goes on waiting; the next job is asked for all of it again."""
    view.show(plan())
    view.layer_opened(WEIGHTS)
    answers, others = ask(view, 5, 0, 9), ask(view, 2, 0, 1)
    gone = NotFound("the blob is gone")
    view.layer_failed(WEIGHTS, gone)
    later, failed, trouble = ask(view, 5, 0, 9), states(view), view.trouble
    view.filled(gone)
    following = Job()
    view.observe(cast("PullJob", following))

    assert ([gone], [gone], [gone], gone) == (answers, later, news.failures, trouble)
    assert [W, C, W, W, W, F, W] == failed
    assert ([gone], W) == (others, states(view)[5])


def test_wrong_bytes_have_an_end(view: LazyView, job: Job, news: News) -> None:
    """Their epoch is over, servers are told, and the view is troubled until the right ones are here."""
    view.show(plan())
    view.layer_opened(TAR)
    wrong = CorruptContent("other bytes")
    view.layer_restarted(TAR, wrong)
    fill = FillMap(view.files.fill, 7)
    troubled = (view.trouble, [fill.epoch(number) for number in range(7)], fill.state(2))
    for layer in (TAR, PACKED, WEIGHTS):
        view.layer_complete(layer)
    view.filled(None)

    assert (wrong, [0, 0, 1, 0, 1, 0, 0], W) == troubled
    assert ([Changed(VIEW, (2, 4))], [wrong], [None]) == (news.told, news.damages, news.ends)
    assert (None, True) == (view.trouble, view.is_complete)


def test_what_nobody_could_read_did_no_damage(view: LazyView, job: Job, news: News) -> None:
    """A blob that is fetched again before it was opened concerns nobody."""
    view.show(plan())
    view.layer_restarted(WEIGHTS, CorruptContent("other bytes"))

    assert ([], None) == (news.damages, view.trouble)


def test_an_older_job_ends_after_the_next_has_begun(view: LazyView, job: Job, news: News) -> None:
    """Its last owner left while another pod came: what is asked for goes to the job that runs."""
    older = view.observe(cast("PullJob", job))
    view.show(plan())
    following = Job()
    view.observe(cast("PullJob", following))
    older.filled(PullPending("stopped"))
    ask(view, 5, 0, 9)

    assert ([(WEIGHTS, 0, 9)], []) == ([asked.what for asked in following.asked], news.ends)


def test_who_observes_twice_asks_once(view: LazyView, job: Job) -> None:
    """Each publication of the view observes the job that it finds."""
    view.show(plan())
    ask(view, 5, 0, 9)
    again = view.observe(cast("PullJob", job))

    assert ([(WEIGHTS, 0, 9)], again) == ([asked.what for asked in job.asked], view.observe(cast("PullJob", job)))


def test_what_was_read_before_a_start_is_thrown_away(view: LazyView, job: Job, news: News) -> None:
    """By the next driver's job, or by one of others for the same host: no page of it may count as verified later."""
    view.show(plan())
    view.layer_opened(TAR)
    view.layer_opened(WEIGHTS)
    following = LazyView(VIEW, view.files, news, news.told.append)
    following.show(plan())
    kept = states(following)
    following.layer_restarted(WEIGHTS, CorruptContent("other bytes"))
    layout = StoreLayout(view.files.directory)
    following.dropping(layout.ingest(TAR, "other.test"), layout.ingest)
    following.dropping(layout.ingest(TAR, "r.test"), layout.ingest)
    fill = FillMap(view.files.fill, 7)

    assert [W, C, A, W, A, A, W] == kept
    assert [W, C, W, W, W, W, W] == states(following)
    assert [0, 0, 1, 0, 1, 1, 0] == [fill.epoch(number) for number in range(7)]
    assert [Changed(VIEW, (5,)), Changed(VIEW, (2, 4))] == news.told


def test_what_could_not_be_had_is_waited_for_after_a_start(view: LazyView, job: Job, news: News) -> None:
    """Another job is about to bring it."""
    view.show(plan())
    view.filled(NotFound("the blob is gone"))
    following = LazyView(VIEW, view.files, news, news.told.append)
    following.show(plan())

    assert [W, C, W, W, W, W, W] == states(following)


def test_all_is_here_without_a_job(view: LazyView, job: Job, news: News) -> None:
    """Others have brought it: whoever waits goes on."""
    view.show(plan())
    view.filled(RegistryUnavailable("away"))
    answers = ask(view, 5, 0, 9)
    view.complete()

    assert ([None], True, None) == (answers, view.is_complete, news.ends[-1])


@pytest.mark.parametrize(("file", "end"), [(7, 1), (5, 1001), (3, 1)])
def test_a_question_about_nothing(view: LazyView, job: Job, file: int, end: int) -> None:
    """A server that asks so does not know the plan."""
    view.show(plan())
    with pytest.raises(ValueError, match="no such range"):
        ask(view, file, 0, end)


def test_the_volume_goes_while_somebody_waits(view: LazyView, job: Job) -> None:
    """He gets an error."""
    view.show(plan())
    answers = ask(view, 5, 0, 9)
    view.close()

    assert ["the volume has gone"] == [str(error) for error in answers]
    assert job.asked[0].is_cancelled
