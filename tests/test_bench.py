"""The benchmarks: their arithmetic, and a tiny run over one peer from the block to the picture."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import (
    cases,
    casework,
    compare,
    counts,
    page,
    pickle_bench,
    record,
    run,
    stats,
    table,
    targets,
    tasks,
)
from bench.cases import CASES
from bench.subjects import SUBJECTS, Subject
from tests.helpers import ROOT

# ---- arithmetic ----------------------------------------------------------------------------


def test_a_quantile_lies_between_order_statistics():
    assert stats.quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert stats.quantile([5.0], 0.99) == 5.0
    assert stats.quantile([0.0, 10.0], 0.25) == 2.5


def test_a_quantile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        stats.quantile([], 0.5)


def test_spread_is_half_the_interquartile_range_over_the_median():
    assert stats.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 3)
    assert stats.spread([2.0, 2.0]) == 0.0


def test_subjects_are_compared_round_by_round():
    """Everything is three times slower in round 1: the ratio must not notice."""
    slow_later = {0: [1.0, 1.0], 1: [3.0, 3.0]}
    twice = {0: [2.0, 2.0], 1: [6.0, 6.0]}

    assert stats.ratio(twice, slow_later) == (2.0, 2.0, 2.0)


def test_rounds_that_one_side_lacks_are_left_out():
    assert stats.round_ratios({0: [2.0], 1: [9.0]}, {0: [1.0]}, "p50") == [2.0]
    assert stats.ratio({0: [2.0]}, {1: [1.0]}) is None


def test_the_bootstrap_interval_holds_the_truth_about_as_often_as_it_says():
    source = random.Random(7)
    hits = 0
    for _ in range(60):
        ratios = [source.gauss(2.0, 0.2) for _ in range(12)]
        rounds = {number: [value] for number, value in enumerate(ratios)}
        found = stats.ratio(rounds, {key: [1.0] for key in rounds})
        hits += found.holds(2.0)

    assert hits >= 50  # of 60; 57 expected, and small samples are a little narrow


def test_the_same_samples_give_the_same_interval():
    rounds = {0: [1.0], 1: [1.2], 2: [0.9]}
    base = {key: [1.0] for key in rounds}

    assert stats.ratio(rounds, base) == stats.ratio(rounds, base)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.00032, "s", "320 us"), (2.5e7, "B", "25 MB"), (1.5, "x", "1.5x"), (0.0, "s", "0 s")],
)
def test_numbers_are_written_for_people(value, unit, text):
    assert stats.scaled(value, unit) == text


# ---- cases ---------------------------------------------------------------------------------


def test_list_scheduling_gives_each_task_to_the_worker_that_is_free_first():
    assert cases.ideal([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert cases.ideal([1.0, 1.0, 3.0], 2) == 4.0


def test_uneven_tasks_are_the_same_ones_for_every_subject():
    durations = cases.uneven(5000)

    assert durations == cases.uneven(5000)
    assert durations.count(cases.LONG) == 5
    assert len(set(durations)) == 2


def test_a_slow_subject_gets_fewer_tasks_and_its_row_says_so(monkeypatch):
    subject = SUBJECTS["ppe-fork"]()
    asked = []
    costs = iter([40.0, 2.0, 7.0])  # a slow first time, a second per task, then whatever
    monkeypatch.setattr(casework, "timed", lambda call: (call(), next(costs))[1])

    cost = casework.per_task(subject, asked.append, 1000, probe=2, budget=7.0)

    assert asked == [2, 2, 7]
    assert cost == 1.0
    assert subject.notes == ["7 tasks in place of 1000"]


def test_a_fast_subject_gets_all_tasks(monkeypatch):
    subject = SUBJECTS["ppe-fork"]()
    asked = []
    monkeypatch.setattr(casework, "timed", lambda call: (call(), 0.001)[1])

    casework.per_task(subject, asked.append, 1000, probe=2)

    assert asked == [2, 1000]
    assert not subject.notes


def test_spinning_needs_the_time_it_is_told_to():
    before = time.thread_time()
    tasks.spin_for(0.01)

    assert 0.01 <= time.thread_time() - before < 0.02


# ---- targets -------------------------------------------------------------------------------


def record_of(case, **subjects):
    """A record of one case; a subject's value is a list of one sample per round."""
    about = {"title": "t", "unit": "s", "statistics": ["p50"], "baseline": "x", "size": 1}
    blocks = [
        {"case": case, "subject": name.replace("_", "-"), "round": number}
        | {"status": "ok", "samples": [value]}
        for name, values in subjects.items()
        for number, value in enumerate(values)
    ]
    return {"cases": {case: about}, "blocks": blocks}


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.5, False)])
def test_a_target_of_so_many_times_is_judged_against_the_slowest_claim(ours, met):
    """Eight times as fast as both, so the faster peer decides."""
    target = targets.Faster("row", "c", 8, ("ppe-fork", "loky"))
    found = target.found(record_of("c", hookpool=[ours], ppe_fork=[8.0], loky=[80.0]))

    assert found.met is met
    assert "loky 80x" in found.measured or not met


def test_a_target_of_a_time_or_a_peers_takes_the_larger():
    target = targets.AtMostOr("row", "c", 1.2e-6, 3, "pool-fork")

    assert target.found(record_of("c", hookpool=[2.9e-6], pool_fork=[1e-6])).met
    assert target.found(record_of("c", hookpool=[1.1e-6], pool_fork=[1e-7])).met
    assert not target.found(record_of("c", hookpool=[1.3e-6], pool_fork=[1e-7])).met


def test_first_is_before_all_peers_but_not_before_our_siblings():
    target = targets.First("row", "c")
    beaten = record_of("c", hookpool=[2.0], mpire=[1.0])

    assert target.found(record_of("c", hookpool=[1.0], mpire=[2.0], pool_hookpool=[0.5])).met
    assert not target.found(beaten).met
    assert "mpire" in target.found(beaten).measured


def test_flat_and_bounded_compare_with_a_number():
    flat = record_of("few", hookpool=[1.0])
    flat["cases"] |= record_of("many")["cases"]
    flat["blocks"] += record_of("many", hookpool=[1.2])["blocks"]

    assert targets.Flat("row", "many", "few", 1.25).found(flat).met
    assert not targets.Flat("row", "many", "few", 1.1).found(flat).met
    assert targets.AtMost("row", "few", 1.05).found(flat).met
    assert not targets.Bounded("row", "few", 0.5).found(flat).met


def test_a_record_without_the_case_or_the_subject_says_nothing():
    for target in targets.TARGETS:
        assert target.found({"cases": {}, "blocks": []}) == targets.NOTHING
        assert target.found(record_of(target.case, pebble=[1.0])) == targets.NOTHING


def test_every_target_names_a_case_and_peers_that_can_do_it():
    for target in targets.PICKLERS:
        assert target.case in pickle_bench.SHAPES
        assert {"pickle", "cloudpickle", "hookpool-python"}.issuperset(
            getattr(target, "peers", ())
        )
    for target in targets.TARGETS[len(targets.PICKLERS) :]:
        able = run.able(CASES[target.case], list(SUBJECTS))
        assert getattr(target, "ours", targets.OURS) in able
        for peer in getattr(target, "peers", ()) or (getattr(target, "peer", "hookpool"),):
            assert peer in able, target


def test_the_table_counts_what_is_met_and_what_is_not_known():
    text = targets.table([record_of("round_trip", hookpool=[1.0], ppe_fork=[9.0])])

    assert text.startswith(f"targets: 1 of 1 met; {len(targets.TARGETS) - 1} not measured\n")
    assert "9x" in text


# ---- comparing two records -----------------------------------------------------------------


def made_record(subject_rounds, baseline_rounds):
    blocks = [
        {"case": "c", "subject": name, "round": number, "status": "ok", "samples": [value]}
        for name, values in (("us", subject_rounds), ("base", baseline_rounds))
        for number, value in enumerate(values)
    ]
    about = {"title": "t", "unit": "s", "statistics": ["p50"], "baseline": "base", "size": 1}
    return {"cases": {"c": about}, "blocks": blocks}


def verdict(before, after):
    (found,) = compare.changes(before, after)
    return found.verdict()


def test_a_machine_twice_as_slow_is_no_difference():
    before = made_record([1.0, 1.1, 0.9], [2.0, 2.2, 1.8])
    after = made_record([2.0, 2.2, 1.8], [4.0, 4.4, 3.6])

    assert verdict(before, after) == "no difference"


def test_a_clear_change_is_named():
    before = made_record([1.0, 1.1, 0.9], [2.0] * 3)
    after = made_record([2.0, 2.2, 1.8], [2.0] * 3)

    assert verdict(before, after) == "slower"
    assert verdict(after, before) == "faster"


def test_noise_wider_than_the_change_is_no_difference():
    before = made_record([1.0, 2.0, 0.5, 1.5], [1.0] * 4)
    after = made_record([1.1, 2.2, 0.6, 1.4], [1.0] * 4)

    assert verdict(before, after) == "no difference"


def test_too_few_rounds_give_no_verdict():
    assert verdict(made_record([1.0], [1.0]), made_record([2.0], [1.0])) == (
        "no verdict from 1 round"
    )


def test_a_subject_of_one_run_only_is_said_to_be_so():
    after = made_record([1.0] * 3, [1.0] * 3)
    before = made_record([], [1.0] * 3)

    assert verdict(before, after) == "not in both runs"


# ---- running -------------------------------------------------------------------------------


def test_every_other_round_runs_backwards():
    order = [name for _, name in run.rounds(["a", "b", "c"], 2)]

    assert order == ["a", "b", "c", "c", "b", "a"]


def test_a_subject_is_asked_only_what_it_can():
    assert "joblib" not in run.able(CASES["submit_many"], list(SUBJECTS))  # joblib has no submit
    assert "joblib" in run.able(CASES["map_many"], list(SUBJECTS))


def test_siblings_that_differ_in_starting_take_part_in_cases_about_starting():
    assert "ppe-spawn" in run.able(CASES["cold_start"], list(SUBJECTS))
    assert "ppe-spawn" not in run.able(CASES["round_trip"], list(SUBJECTS))
    assert run.able(CASES["round_trip"], ["ppe-spawn"]) == ["ppe-spawn"]  # unless it is alone


def test_one_import_is_measured_once():
    found = run.able(CASES["import_time"], list(SUBJECTS))

    assert len({SUBJECTS[name].import_line for name in found}) == len(found)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(SystemExit, match=r"nothing is called 'lokky'; there are .*loky"):
        run.selected(list(SUBJECTS), "lokky")


def test_every_case_has_a_baseline_that_can_do_it():
    for case in CASES.values():
        assert case.baseline in run.able(case, list(SUBJECTS)), case.name


def test_every_subject_has_a_name_of_its_own_and_an_import():
    for name, subject in SUBJECTS.items():
        assert issubclass(subject, Subject)
        assert subject.name == name
        compile(subject.import_line, name, "exec")


def test_a_tiny_run_goes_from_the_block_to_the_table(tmp_path, capsys):
    run.main(
        ["--quick", "--cases", "submit_many,import_time", "--subjects", "ppe-fork"]
        + ["--name", "tiny", "--folder", str(tmp_path)]
    )
    (path,) = tmp_path.glob("*-tiny.json")
    kept = record.read(path)

    assert [block["status"] for block in kept["blocks"]] == ["ok", "ok"]
    assert all(block["samples"] for block in kept["blocks"])
    assert {"commit", "dirty", "cpu", "load_before", "load_after", "python", "versions"} <= set(
        kept
    )
    assert "ppe-fork" in capsys.readouterr().out
    assert table.of_case(kept, "submit_many").count("\n") == 3


def test_a_block_that_hangs_is_killed_and_the_run_goes_on(tmp_path, monkeypatch):
    """A block that neither ends nor reports: here an interpreter that sleeps in its place."""
    monkeypatch.setattr(run, "BLOCK", ["-c", "import time; time.sleep(60)"])
    case = CASES["submit_many"]._replace(limit=0.3)

    outcome = run.run_block("ppe-fork", case, 10, tmp_path)

    assert outcome == {"status": "hung", "why": "hung: killed after 0.3 s"}


def test_a_block_that_dies_is_reported_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BLOCK", ["-c", "raise SystemExit('no such luck')"])

    outcome = run.run_block("ppe-fork", CASES["submit_many"], 10, tmp_path)

    assert outcome == {"status": "died", "why": "died with exit code 1: no such luck"}


def test_a_record_reads_back_and_sorts_by_time(tmp_path):
    into = record.begin("x", ["pytest"])
    into["blocks"].append({"case": "c", "subject": "s", "round": 0, "status": "ok"})
    path = record.save(into, tmp_path)

    assert record.newest(tmp_path) == [path]
    assert record.read(path)["blocks"] == into["blocks"]
    assert record.read(path)["versions"]["pytest"]


def test_a_record_of_another_format_is_refused(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"format": 0}))

    with pytest.raises(SystemExit, match="format 0"):
        record.read(path)


@pytest.mark.slow
def test_pictures_are_drawn_from_records(tmp_path):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("pictures need matplotlib")
    about = {"title": "t", "unit": "s", "statistics": ["p50"], "baseline": "base", "size": 1}
    into = record.begin("x", [])
    for case in ("round_trip", "dumps_lambda"):
        into["cases"][case] = about
        for name, value in (("base", 2.0), ("hookpool", 1.0), ("hookpool-python", 20.0)):
            into["blocks"].append(
                {"case": case, "subject": name, "round": 0, "status": "ok", "samples": [value]}
            )
    record.save(into, tmp_path / "history")

    # In a process of its own: matplotlib keeps its fonts open.
    subprocess.run(
        [sys.executable, "-m", "bench.plot"]
        + ["--history", str(tmp_path / "history"), "--plots", str(tmp_path / "plots")],
        cwd=Path(__file__).parents[1],
        check=True,
        timeout=50,
    )

    pictures = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert pictures == ["gain.png", "history.png", "latest.png", "picklers.png", "pools.png"]


def test_the_page_gets_the_tables_as_they_were_printed(tmp_path):
    into = record.begin("full", []) | made_record([1.0] * 3, [2.0] * 3) | {"load_after": 0.1}
    text = page.tables([into])

    assert table.of_case(into, "c") in text
    assert into["commit"] in text

    before = f"# By hand\n{page.START}\nold\n{page.END}\nmore by hand\n"
    after = page.filled(before, text)
    assert text in after
    assert "old" not in after
    assert page.filled(after, text) == after


def test_a_page_without_marks_is_refused():
    with pytest.raises(SystemExit, match="lacks its marks"):
        page.filled("# no marks", "text")


@pytest.mark.slow
def test_joblib_is_measured_pair_by_pair(tmp_path: Path):
    cases = "fresh_call,cold_start"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.joblib_cases",
            "--pairs",
            "2",
            "--sittings",
            "1",
            "--cases",
            cases,
        ]
        + ["--folder", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        check=True,
        timeout=50,
        stdout=subprocess.DEVNULL,
    )
    (path,) = record.newest(tmp_path)
    kept = record.read(path)

    for case in cases.split(","):
        for subject in ("joblib", "joblib-hookpool"):
            assert sorted(record.samples_of(kept, case, subject)) == [0, 1]


# --- counts ------------------------------------------------------------------------------------


def test_calls_of_a_pickle_repeat():
    assert counts.calls("lambda") == counts.calls("lambda") > 0


def test_a_map_of_many_tiny_tasks_needs_few_messages():
    assert counts.messages(1) == 1
    assert counts.messages(10_000) < 10_000 / 50


def test_an_import_is_counted_without_what_python_itself_loads():
    assert counts.modules(counts.LOADED) == 0
    assert counts.modules(f"import hookpool; {counts.LOADED}") > 2


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [(5, None, "new"), (103, 100, ""), (104, 100, "MORE"), (97, 100, ""), (96, 100, "fewer")],
)
def test_a_count_may_differ_by_a_little(now, before, said):
    assert counts.verdict(now, before) == said


def test_counts_are_kept_for_every_python_that_is_supported():
    text = (ROOT / "pyproject.toml").read_text()
    versions = set(re.findall(r"Python :: (3\.\d+)", text))
    assert set(json.loads(counts.BASELINE.read_text())) == versions
