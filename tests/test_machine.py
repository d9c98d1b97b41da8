"""Records name the processor that made their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memory_defense import machine

CPU = torch.device("cpu")


def test_a_processor_is_named_as_the_system_names_it(monkeypatch) -> None:
    text = "processor : 0\nmodel name\t: Made-up 9000: fast\nmodel name\t: other\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert machine.processor() == "Made-up 9000: fast"


def test_a_system_that_does_not_say_gives_its_kind(monkeypatch) -> None:
    def unreadable(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")
    assert machine.processor() == "riscv64"


@pytest.mark.parametrize(
    ("capabilities", "units", "said"),
    [
        ({"avx512_bf16": True, "amx_bf16": True}, "AMX", "X (bfloat16 by AMX)"),
        ({"avx512_bf16": True, "amx_bf16": False}, "AVX-512", "X (bfloat16 by AVX-512)"),
        ({}, "", "X"),
    ],
)
def test_a_device_says_what_it_multiplies_with(monkeypatch, capabilities, units, said) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(machine, "processor", lambda: "X")
    assert machine.bfloat16_units() == units
    assert machine.device_name(CPU) == f"cpu, {torch.get_num_threads()} threads, {said}"
