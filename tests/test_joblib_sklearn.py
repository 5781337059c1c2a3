"""scikit-learn and pandas on the joblib backend: the same answers as without any processes.

On the data sets that ship with scikit-learn.  The workers live as long as this file's tests, since
each worker imports scikit-learn, which takes longer than what is tested.
"""

from __future__ import annotations

import json
import textwrap
import warnings

import pytest

np = pytest.importorskip("numpy", reason="scikit-learn is not installed")
sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
joblib = pytest.importorskip("joblib", reason="the extra `joblib` is not installed")

from joblib import Parallel, delayed, parallel_config  # noqa: E402
from sklearn.base import BaseEstimator, TransformerMixin  # noqa: E402
from sklearn.datasets import load_iris  # noqa: E402
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier  # noqa: E402
from sklearn.inspection import permutation_importance  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer  # noqa: E402
from sklearn.svm import SVC  # noqa: E402
from sklearn.utils.parallel import Parallel as SklearnParallel  # noqa: E402
from sklearn.utils.parallel import delayed as sklearn_delayed  # noqa: E402

import hookpool.joblib  # noqa: E402
from tests.helpers import ROOT, run_python  # noqa: E402
from tests.joblib_tracker import stop_tracker  # noqa: E402

hookpool.joblib.register()

X, y = load_iris(return_X_y=True)
#: Fewer rows where nothing depends on how many there are.
few = slice(None, None, 5)


@pytest.fixture(autouse=True, scope="module")
def workers():
    """Idle workers are kept from test to test, and no longer."""
    yield
    hookpool.joblib.stop_workers()
    stop_tracker()


@pytest.fixture
def batches(monkeypatch):
    """Grows with each batch that the backend gets: a fit may decide against processes."""
    sent = []
    submit = hookpool.joblib.HookPoolBackend.submit

    def counted(self, func, callback=None):
        sent.append(func)
        return submit(self, func, callback)

    monkeypatch.setattr(hookpool.joblib.HookPoolBackend, "submit", counted)
    return sent


@pytest.fixture
def same(batches):
    """Run a call on no processes and on hookpool, and compare what it returns, bit for bit."""

    def check(call):
        with parallel_config(backend="sequential"):
            sequential = np.asarray(call())
        assert not batches
        with parallel_config(backend="hookpool", n_jobs=2):
            ours = np.asarray(call())
        assert batches
        assert sequential.dtype == ours.dtype
        assert sequential.tobytes() == ours.tobytes()

    return check


def test_a_forest(same):
    def probabilities():
        forest = RandomForestClassifier(6, random_state=0, n_jobs=2).fit(X, y)
        return forest.predict_proba(X)

    same(probabilities)


def test_a_grid_search_with_a_lambda_for_scorer(same):
    def scores():
        search = GridSearchCV(
            SVC(),
            {"C": [0.1, 1.0], "gamma": [0.1, 1.0]},
            scoring=lambda model, X, y: float((model.predict(X) == y).mean()),
            cv=3,
        )
        return search.fit(X, y).cv_results_["mean_test_score"]

    same(scores)


def test_cross_validation_with_a_transformer_and_a_kernel_of_this_very_test(same):
    class Scaled(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            self.scale_ = X.max(axis=0)
            return self

        def transform(self, X):
            return X / self.scale_

    model = make_pipeline(
        Scaled(), FunctionTransformer(lambda X: X**2), SVC(kernel=lambda a, b: a @ b.T)
    )

    same(lambda: cross_val_score(model, X, y, cv=4))


def test_permutation_importance(same):
    model = LogisticRegression(max_iter=500).fit(X, y)

    same(lambda: permutation_importance(model, X, y, n_repeats=3, random_state=0).importances)


def test_a_grid_around_a_forest_nests(same):
    def scores():
        forest = RandomForestClassifier(4, random_state=0, n_jobs=2)
        search = GridSearchCV(forest, {"max_depth": [1, 2]}, cv=2)
        return search.fit(X, y).cv_results_["mean_test_score"]

    same(scores)


def test_a_fitted_estimator_of_a_local_class_comes_back_as_one():
    class Mean(BaseEstimator):
        def fit(self, X, y):
            self.mean_ = float(y.mean())
            return self

    with parallel_config(backend="hookpool", n_jobs=2):
        (fitted,) = Parallel()([delayed(Mean().fit)(X, y)])

    assert type(fitted) is Mean
    assert fitted.mean_ == float(y.mean())


def test_a_callback_of_this_very_test_stops_a_fit():
    def fitted():
        model = GradientBoostingClassifier(n_estimators=9, random_state=0)
        return model.fit(X[few], y[few], monitor=lambda number, *_: number == 2)

    (model,) = Parallel(n_jobs=2, backend="hookpool")([delayed(fitted)()])

    assert len(model.estimators_) == 3


def test_large_data_are_mapped_and_nothing_stays(tmp_path, same):
    """Estimators must not write to what they are given: maps are read-only by default."""
    big = np.repeat(X, 250, axis=0), np.repeat(y, 250)  # 1.2 MB

    def scores():
        model = LogisticRegression(max_iter=20, tol=0.1)
        return cross_val_score(model, *big, cv=2)

    with parallel_config(temp_folder=str(tmp_path)):
        same(scores)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_that_fails_in_a_worker_says_where():
    class Broken(BaseEstimator):
        def fit(self, X, y):
            raise ArithmeticError("on purpose")

    with (
        parallel_config(backend="hookpool", n_jobs=2),
        pytest.raises(ArithmeticError, match="on purpose") as caught,
    ):
        cross_val_score(Broken(), X, y, scoring=lambda *_: 0.0, error_score="raise")

    assert "in fit" in str(caught.value.__cause__)


def test_the_configuration_of_sklearn_reaches_workers():
    with sklearn.config_context(working_memory=123):
        seen = SklearnParallel(n_jobs=2, backend="hookpool")(
            sklearn_delayed(sklearn.get_config)() for _ in range(2)
        )

    assert {config["working_memory"] for config in seen} == {123}


def test_the_configuration_reaches_what_an_estimator_runs_in_a_worker():
    class Told(BaseEstimator):
        def fit(self, X, y):
            self.memory_ = sklearn.get_config()["working_memory"]
            return self

        def score(self, X, y):
            return float(self.memory_)

    with sklearn.config_context(working_memory=321), parallel_config("hookpool", n_jobs=2):
        scores = cross_val_score(Told(), X, y, cv=4)

    assert set(scores) == {321.0}


@pytest.mark.parametrize("action", ["ignore", "always"])
def test_warnings_are_filtered_in_workers_as_here(action):
    def caught():
        import io
        import sys

        sys.stderr, kept = io.StringIO(), sys.stderr
        try:
            warnings.warn("as told", RuntimeWarning, stacklevel=1)
            return sys.stderr.getvalue()
        finally:
            sys.stderr = kept

    with warnings.catch_warnings():
        warnings.simplefilter(action, RuntimeWarning)
        texts = SklearnParallel(n_jobs=2, backend="hookpool")(
            sklearn_delayed(caught)() for _ in range(2)
        )

    assert ["as told" in text for text in texts] == [action == "always"] * 2


def test_warning_filters_reach_workers():
    def warn():
        warnings.warn("to be an error", RuntimeWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(RuntimeWarning, match="to be an error"):
            SklearnParallel(n_jobs=2, backend="hookpool")([sklearn_delayed(warn)()])


def test_pandas_groups_are_applied_to_in_parallel():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=list("abcd")).assign(kind=y)

    def summed_up(group):
        return group[list("abcd")].agg(["mean", lambda column: column.max() - column.min()])

    parts = Parallel(n_jobs=2, backend="hookpool")(
        delayed(summed_up)(group) for _, group in frame.groupby("kind")
    )
    expected = [summed_up(group) for _, group in frame.groupby("kind")]

    pandas.testing.assert_frame_equal(
        pandas.concat(parts), pandas.concat(expected), check_exact=True
    )


@pytest.mark.slow
def test_everything_may_be_defined_in_the_program_itself(tmp_path):
    """Estimator, transformer, scorer, kernel and callback of `__main__`, without a guard."""
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
            import joblib, numpy as np, sys
            from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
            from sklearn.datasets import load_iris
            from sklearn.ensemble import GradientBoostingClassifier
            from sklearn.model_selection import GridSearchCV, cross_val_score
            from sklearn.pipeline import make_pipeline
            from sklearn.svm import SVC
            import hookpool.joblib

            class Half(TransformerMixin, BaseEstimator):
                def fit(self, X, y=None):
                    return self
                def transform(self, X):
                    return X * FACTOR

            class Nearest(ClassifierMixin, BaseEstimator):
                def __init__(self, power=2):
                    self.power = power
                def fit(self, X, y):
                    self.classes_ = np.unique(y)
                    self.means_ = np.array([X[y == kind].mean(axis=0) for kind in self.classes_])
                    return self
                def predict(self, X):
                    far = (abs(X[:, None] - self.means_) ** self.power).sum(axis=2)
                    return self.classes_[far.argmin(axis=1)]

            class StopAfter:
                def __init__(self, rounds):
                    self.rounds = rounds
                def __call__(self, number, model, variables):
                    return number + 1 == self.rounds

            FACTOR = 0.5
            X, y = load_iris(return_X_y=True)
            scorer = lambda model, X, y: float((model.predict(X) == y).sum())

            def boosted(rows):
                model = GradientBoostingClassifier(n_estimators=5, random_state=0)
                return len(model.fit(X[rows], y[rows], monitor=StopAfter(2)).estimators_)

            def answers():
                grid = GridSearchCV(Nearest(), {"power": [1, 2]}, scoring=scorer, cv=2).fit(X, y)
                piped = make_pipeline(Half(), SVC(kernel=lambda a, b: a @ b.T))
                yield type(grid.best_estimator_) is Nearest
                yield from grid.cv_results_["mean_test_score"]
                yield from cross_val_score(piped, X, y, cv=2, scoring=scorer)
                yield from joblib.Parallel()([joblib.delayed(boosted)(slice(0, None, 5))])

            hookpool.joblib.register()
            for options in ({"backend": "sequential"}, {"backend": "hookpool", "n_jobs": 2}):
                with joblib.parallel_config(**options):
                    print([float(answer) for answer in answers()])
            hookpool.joblib.stop_workers()
        """)
    )
    sequential, ours = run_python("program.py", cwd=tmp_path).splitlines()

    assert sequential == ours
    assert len(json.loads(ours)) == 6


@pytest.mark.slow
def test_the_notebook_prints_what_it_shows():
    notebook = ROOT / "docs" / "examples" / "scikit_learn.ipynb"
    outputs = [
        out
        for cell in json.loads(notebook.read_text())["cells"]
        for out in cell.get("outputs", ())
    ]
    shown = "".join("".join(out["text"]) for out in outputs)

    printed = run_python(str(ROOT / "tests" / "notebook.py"), str(notebook), "50", timeout=55)

    assert shown.count("True") == 2
    assert printed == shown
