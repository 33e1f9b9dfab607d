# SPDX-License-Identifier: Apache-2.0
"""Reading a request: everything wrong is said, at once, with the place and with what to write instead."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from gpu_compat import CompatError, read_request
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD: dict[str, Any] = {"environments": [{"name": "torch", "frameworks": {"pytorch": "newest"}}]}


def mistakes(request: Any) -> dict[str, str]:
    with pytest.raises(CompatError) as caught:
        read_request(request)
    return {mistake.path: mistake.message for mistake in caught.value.mistakes}


def test_defaults_are_filled_in_and_the_argument_stays_as_it_was() -> None:
    before = copy.deepcopy(GOOD)
    answer = read_request(GOOD)
    assert before == GOOD
    assert answer["profile"] == "auto"
    assert answer["cuda_toolkits"] == ["auto"]
    assert (answer["cuda_source"], answer["cuda_components"], answer["cudnn_source"]) == ("auto", "auto", "auto")
    parts = read_request({**GOOD, "cuda_components": ["nvcc", "libcublas", "nvcc"]})
    assert parts["cuda_components"] == ["nvcc", "libcublas"]
    assert answer["environments"] == [
        {
            "name": "torch",
            "frameworks": {"pytorch": {"version": "newest", "cuda": None}},
            "python": "auto",
            "manager": "uv",
            "extras": [],
            "keras_backend": "auto",
            "optional": False,
            "existing": None,
        }
    ]


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"profil": "gpu"}, "profil", ["unknown key", "'profile'"]),
        ({"profile": "gpus"}, "profile", ["'gpus'", "'gpu'"]),
        ({"profile": None}, "profile", ["nothing (null)"]),
        ({"driver": 580}, "driver", ["580 is a number", '"580"']),
        ({"cuda_toolkits": "12.8"}, "cuda_toolkits", ["must be a list", '["12.8", "13.0"]']),
        ({"cuda_source": "redits"}, "cuda_source", ["'redits'", "'redist'"]),
        ({"cudnn_source": "runfile"}, "cudnn_source", ["auto, nvidia_repo, redist, distro"]),
        ({"cuda_components": "nvcc"}, "cuda_components", ["must be a list", "[nvcc, cublas]"]),
        ({"cuda_components": []}, "cuda_components", ["the list is empty"]),
        ({"cuda_components": ["nvcc", "../x"]}, "cuda_components[1]", ["'../x'"]),
        ({"cuda_toolkits": [12.1]}, "cuda_toolkits[0]", ['"12.1" or "12.10"']),
        ({"environments": {"name": "x"}}, "environments", ["must be a list"]),
        ({"environments": ["torch"]}, "environments[0]", ["must be a mapping"]),
    ],
)
def test_top_level_mistakes(change: dict[str, Any], path: str, words: list[str]) -> None:
    found = mistakes({**GOOD, **change})
    assert path in found
    for word in words:
        assert word in found[path]


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"python": 3.1}, "python", ["quotes", '"3.10"']),
        ({"python": "3"}, "python", ['"3.12"']),
        ({"frameworks": {"torhc": "newest"}}, "frameworks.torhc", ["unknown framework", "'pytorch'"]),
        ({"frameworks": {"torch": "newest"}}, "frameworks.torch", ["'pytorch'"]),
        ({"frameworks": {"mxnet": "newest"}}, "frameworks.mxnet", ["tensorflow, keras, pytorch, jax"]),
        ({"frameworks": {}}, "frameworks", ["no framework"]),
        ({"frameworks": ["pytorch"]}, "frameworks", ["{pytorch: newest}"]),
        ({"frameworks": {"pytorch": 2.1}}, "frameworks.pytorch", ["number"]),
        ({"frameworks": {"pytorch": "latest"}}, "frameworks.pytorch", ["newest"]),
        ({"frameworks": {"pytorch": {"verison": ">=2"}}}, "frameworks.pytorch.verison", ["'version'"]),
        ({"frameworks": {"pytorch": {"cuda": "rocm6"}}}, "frameworks.pytorch.cuda", ["cu128"]),
        ({"frameworks": {"keras": "newest"}}, "frameworks.keras", ["backend"]),
        ({"manager": "poetry"}, "manager", ["uv, venv, virtualenv, conda"]),
        ({"extras": ["visoin"]}, "extras[0]", ["'vision'"]),
        ({"optional": "yes"}, "optional", ["true or false"]),
        ({"existing": "python3"}, "existing", ["absolute path"]),
        ({"existing": "/usr/bin/python3", "manager": "uv"}, "manager", ["never changed"]),
        ({"keras_backend": "jax"}, "keras_backend", ["keras is not"]),
        ({"name": "My Env"}, "name", ["lower-case"]),
    ],
)
def test_mistakes_in_an_environment(change: dict[str, Any], path: str, words: list[str]) -> None:
    found = mistakes({"environments": [{**GOOD["environments"][0], **change}]})
    assert f"environments[0].{path}" in found
    for word in words:
        assert word in found[f"environments[0].{path}"]


def test_duplicate_names_and_a_missing_name() -> None:
    found = mistakes({"environments": [GOOD["environments"][0], GOOD["environments"][0]]})
    assert "environments[0]" in found["environments[1].name"]
    assert "'name' is missing" in mistakes({"environments": [{"frameworks": {"jax": "newest"}}]})["environments[0]"]


def test_all_mistakes_at_once() -> None:
    found = mistakes(
        {
            "profil": 1,
            "driver": 5.5,
            "environments": [{"name": "a", "python": 3.1, "frameworks": {"x": "newest"}}],
        }
    )
    assert list(found) == ["profil", "driver", "environments[0].python", "environments[0].frameworks.x"]


def test_mistakes_between_keys_are_said_beside_those_in_them() -> None:
    environment = {"name": "a", "frameworks": {"keras": "newest"}}
    found = mistakes({"profil": "gpu", "environments": [environment, environment]})
    assert list(found) == ["profil", "environments[0].frameworks.keras", "environments[1].name",
                           "environments[1].frameworks.keras"]  # fmt: skip


def test_keras_backend_must_be_in_the_environment() -> None:
    environment = {"name": "k", "frameworks": {"keras": "newest", "jax": "newest"}, "keras_backend": "torch"}
    assert "it has jax" in mistakes({"environments": [environment]})["environments[0].keras_backend"]
    read_request({"environments": [{**environment, "keras_backend": "jax"}]})


def test_a_bare_version_means_exactly_that_version() -> None:
    answer = read_request({"environments": [{"name": "t", "frameworks": {"pytorch": "2.13.0"}}]})
    assert answer["environments"][0]["frameworks"]["pytorch"]["version"] == "==2.13.0"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "environments",
                    "name",
                    "frameworks",
                    "pytorch",
                    "keras",
                    "profile",
                    "python",
                    "version",
                    "x",
                ]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(_JSON)
@settings(max_examples=300, deadline=None)
def test_no_input_of_any_shape_gives_anything_but_an_explanation(value: Any) -> None:
    explained: CompatError | None = None
    try:
        answer = read_request(value)
    except CompatError as error:
        explained = error
    if explained is None:
        assert read_request({**answer, "environments": value["environments"]}) == answer
    else:
        assert explained.mistakes
        assert all(mistake.message for mistake in explained.mistakes)
