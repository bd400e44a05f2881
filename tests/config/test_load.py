"""What a configuration file becomes."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from unisd.config.dump import resolved_yaml
from unisd.config.errors import ConfigError
from unisd.config.load import load_config
from unisd.config.schema import RunConfig
from unisd.objective import CrossEntropy, DivergenceClip, TokenFilter
from unisd.tasks.source import DataSource
from unisd.teacher import EMATeacher

MODEL = "model: {name_or_path: owner/name}\n"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., RunConfig]:
    """Loads a file `run.yaml` that holds a model section and the given text."""

    def load_text(text: str = "", overrides=()) -> RunConfig:
        path = tmp_path / "run.yaml"
        path.write_text(MODEL + dedent(text))
        return load_config(path, overrides)

    return load_text


def test_a_model_is_all_that_a_file_must_hold(load):
    config = load()
    assert config.model.name_or_path == "owner/name"
    assert config.peft is None
    assert config.teacher.kind == "base"
    assert config.objective.divergence == "forward_kl"
    assert config.components == (DivergenceClip(ceiling=10.0),)
    assert config.training == {"output_dir": "runs/run"}


def test_an_empty_component_list_means_none_and_a_missing_one_the_clip_where_it_can_act(load):
    assert load("components: []").components == ()
    assert load("objective: {divergence: reverse_kl, support: sampled}").components == ()
    assert load("components:").components == (DivergenceClip(ceiling=10.0),)


def test_every_section_reaches_its_object(load):
    config = load(
        """
        peft: {r: 4, target_modules: [q_proj]}
        data:
          train: {path: rows.jsonl, grader: numeric}
          eval: cmd
          max_prompt_length: 77
          teacher_chat_kwargs: {enable_thinking: false}
        contexts: {privileged: {repeats: 3}}
        teacher: {kind: ema, decay: 0.5}
        objective: {divergence: jsd, beta: 0.25, temperature: 2}
        components:
          - {type: token_filter, fraction: 0.5}
          - {type: cross_entropy, coefficient: 0.1, weighted: true}
        rollout: {temperature: 1, top_k: 5}
        training: {max_steps: 3}
        eval: {tasks: [cmd], every: 5}
        """
    )
    assert config.peft == {"r": 4, "target_modules": ["q_proj"]}
    assert config.data.train == DataSource("rows.jsonl", grader="numeric")
    assert config.data.max_prompt_length == 77
    assert config.data.teacher_chat_kwargs == {"enable_thinking": False}
    assert config.contexts.privileged.repeats == 3
    assert config.teacher == EMATeacher(decay=0.5)
    assert (config.objective.beta, config.objective.temperature) == (0.25, 2.0)
    assert config.components == (TokenFilter(fraction=0.5), CrossEntropy(coefficient=0.1, weighted=True))
    assert (config.rollout.temperature, config.rollout.top_k) == (1.0, 5)
    assert config.training["max_steps"] == 3
    assert config.eval.tasks == ("cmd",)


def test_numbers_that_yaml_reads_as_text_become_numbers(load):
    config = load("training: {learning_rate: 2e-5}\ncomponents: [{type: cross_entropy, coefficient: 1e-1}]")
    assert config.training["learning_rate"] == 2e-5
    assert config.components == (CrossEntropy(coefficient=0.1),)


def test_a_number_of_pissa_iterations_is_an_initial_adapter(load):
    config = load("peft: {init_lora_weights: pissa_niter_4}")
    assert config.peft == {"init_lora_weights": "pissa_niter_4"}


def test_warmup_ratio_becomes_warmup_steps_with_a_hint(load, caplog):
    with caplog.at_level(logging.WARNING):
        config = load("training: {warmup_ratio: 0.1}")
    assert config.training == {"output_dir": "runs/run", "warmup_steps": 0.1}
    assert "warmup_steps: 0.1" in caplog.text
    with pytest.raises(ConfigError, match="both given"):
        load("training: {warmup_ratio: 0.1, warmup_steps: 3}")
    with pytest.raises(ConfigError, match=r"training.warmup_ratio must lie in \[0, 1\), got 3"):
        load("training: {warmup_ratio: 3}")


def test_overrides_mean_the_same_as_text_and_as_a_mapping(load):
    text = load("", ["training.learning_rate=1e-5", "components.0.ceiling=5", "rollout.temperature=0"])
    mapping = load("", {"training.learning_rate": 1e-5, "components.0.ceiling": 5, "rollout.temperature": 0})
    assert text == mapping
    assert text.training["learning_rate"] == 1e-5
    assert text.components == (DivergenceClip(ceiling=5.0),)
    assert text.rollout.temperature == 0


def test_a_later_override_wins_over_the_file_and_over_an_earlier_one(load):
    config = load("rollout: {top_k: 1}", ["rollout.top_k=2", "rollout.top_k=3", "teacher={kind: live}"])
    assert config.rollout.top_k == 3
    assert config.teacher.kind == "live"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rte=1", "'learning_rte' is not an option .* Did you mean 'learning_rate'"),
        ("rolout.top_k=1", "'rolout' is not a section .* Did you mean 'rollout'"),
        ("components.7.ceiling=1", "'7' is not an index into components. Allowed: 0 to 0"),
        ("model.name_or_path.x=1", "model.name_or_path is 'owner/name', which has no keys"),
        ("rollout.top_k", "must be key=value"),
        ("rollout.top_k={", "not readable as YAML"),
    ],
)
def test_a_bad_override_says_what_is_wrong(load, override, message):
    with pytest.raises(ConfigError, match=message):
        load("", [override])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "objective: {divergence: jsd, scaled: true}\nteacher: {kind: ema, every: 3}\npeft: {rank_pattern: {q_proj: 2}}",
        "data: {train: {path: a.jsonl, data_files: null}, prompt_template: '{a}: b'}\ntraining: {optim: adamw_torch}",
        "objective: {divergence: none}\ncomponents: [{type: cross_entropy}]\nrollout: {backend: dataset, min_p: 1e-2}",
    ],
)
def test_the_resolved_yaml_loads_again_to_an_equal_config(load, tmp_path, text):
    config = load(text)
    again = tmp_path / "resolved.yaml"
    again.write_text(resolved_yaml(config))
    assert load_config(again) == config


def test_the_resolved_yaml_holds_every_default_but_no_token(load):
    text = resolved_yaml(load("training: {hub_token: secret}"))
    assert "on_policy_fraction: 1.0" in text
    assert "max_teacher_prompt_length: 3072" in text
    assert "secret" not in text


def test_a_component_of_ones_own_is_found_in_the_working_directory(load, tmp_path, monkeypatch):
    (tmp_path / "my_loss.py").write_text(
        dedent(
            """
            from dataclasses import dataclass
            from typing import ClassVar
            from unisd.types import Loss, Need

            @dataclass(frozen=True)
            class Surprise(Loss):
                scale: float = 1.0
                needs: ClassVar[Need] = Need.STUDENT_LOGP

                def __call__(self, scores):
                    return -self.scale * scores.student_logp

            class NotFrozen(Loss):
                needs: ClassVar[Need] = Need.STUDENT_LOGP

            @dataclass(frozen=True)
            class Needless(Loss):
                scale: float = 1.0

            @dataclass(frozen=True)
            class Weighing(Loss):
                needs: ClassVar[Need] = Need.SAMPLER_LOGP
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_loss", raising=False)
    config = load("components: [{type: 'my_loss:Surprise', scale: 2e+0, coefficient: 0.5}]")
    (component,) = config.components
    assert dataclasses.asdict(component) == {"scale": 2.0, "coefficient": 0.5, "weighted": False}
    assert "type: my_loss:Surprise" in resolved_yaml(config)
    for name, message in [
        ("my_loss:NotFrozen", "not a frozen dataclass"),
        ("my_loss:Needless", "does not say what it needs"),
        ("my_loss:Need", "is not a component"),
        ("my_loss:Suprise", "has no 'Suprise'"),
        ("no_such_module:X", "cannot be imported"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load(f"components: [{{type: '{name}'}}]")
    with pytest.raises(ConfigError, match="sampler_logp, but completions of the data set have no sampler"):
        load("components: [{type: 'my_loss:Weighing'}]\nrollout: {on_policy_fraction: 0.5}")
