# SPDX-License-Identifier: Apache-2.0
"""nvidia-smi in all its moods: slow, dead, lying, cut off, coloured, translated. Everything here is made up."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import observe
import pytest
import smi_xml
from nvml import observations, standin
from nvml.laboratory import Laboratory

XML = standin.xml(standin.h100x8())


class Smi:
    """Runs an nvidia-smi of some manner, without a library beside it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lab = Laboratory(directory, monkeypatch, standin.h100x8(), library=False, binding=False)

    def __call__(self, most: float = 20, **manner: Any) -> dict[str, Any]:
        self.lab.runner.table["identity"]["smi_seconds"]["most"] = most
        self.lab.driver.smi(**manner)
        return self.again()

    def again(self) -> dict[str, Any]:
        answer: dict[str, Any] = observe.observe(self.lab.runner)["smi"]
        return answer

    def replace(self, program: str) -> None:
        (self.lab.driver.directory / "nvidia-smi").write_text(program)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    return Smi(tmp_path, monkeypatch)


def third(document: bytes) -> dict[str, Any]:
    answer = smi_xml.parse(document)
    assert answer["problem"] == ""
    gpu: dict[str, Any] = answer["gpus"][3]
    return gpu


def changed(old: str, new: str, count: int = 1) -> bytes:
    assert old.encode() in XML
    return XML.replace(old.encode(), new.encode(), count)


# -- the document ------------------------------------------------------------------------------------------------------


def test_a_whole_document_is_read() -> None:
    answer = smi_xml.parse(XML)
    assert answer["problem"] == ""
    assert (answer["driver_version"], answer["cuda_version"], answer["declared"]) == ("580.126.09", "13.0", 8)
    assert answer["gpus"] == [observations.smi_gpu(index) for index in range(8)]
    assert (answer["suspicious"], answer["simulated"]) == ([], True)


def test_what_people_and_systems_put_around_the_document_does_no_harm() -> None:
    plain = smi_xml.parse(XML)
    coloured = XML.replace(b"<gpu ", b"\x1b[1;32m<gpu ").replace(b"</gpu>", b"</gpu>\x1b[0m\x1b(B")
    coloured = coloured.replace(b">4 MiB<", b">\x1b[31m4 MiB\x1b[0m<")
    for document in (
        XML.replace(b"\n", b"\r\n"),
        coloured,
        b"\xef\xbb\xbf" + XML,
        b"WARNING: infoROM is corrupted at gpu 0000:17:00.0\n" + XML + b"\nsome farewell\n",
        b"caf\xe9\n" + XML,
    ):
        assert smi_xml.parse(document) == plain


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "printed nothing"),
        (b" \r\n\t", "printed nothing"),
        (b"No devices were found\n", "no XML: No devices were found"),
        (b"\x00\xff\xfe rubbish", "no XML"),
        (XML[: len(XML) // 2], "breaks off"),
        (XML[:-20], "breaks off"),
        (XML.replace(b"</fb_memory_usage>", b""), "is no XML"),
        (XML.replace(b"H100 80GB", b"H100 & <80GB"), "is no XML"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + XML, ""),
        (b"<nvidia_smi_log></nvidia_smi_log>", "lists no GPU"),
        (b"<nvidia_smi_log><attached_gpus>0</attached_gpus></nvidia_smi_log>", "lists no GPU"),
        (changed(">8</attached_gpus>", ">7</attached_gpus>"), "says 7 GPUs are attached and describes 8"),
        (changed("<attached_gpus>8</attached_gpus>", ""), "says not how many GPUs are attached"),
        (XML + XML, "is no XML"),
        (b"<html><body>502 Bad Gateway</body></html>", "no XML"),
    ],
)
def test_what_is_no_document_is_a_problem_and_never_a_gpu(document: bytes, words: str) -> None:
    answer = smi_xml.parse(document)
    assert words in answer["problem"]
    if words:
        assert answer["problem"]
        assert len(answer["gpus"]) in (0, 8)  # those with the wrong count


def test_entities_are_refused() -> None:
    start = b'<!DOCTYPE nvidia_smi_log [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><nvidia_smi_log>'
    inside = XML.replace(b"<nvidia_smi_log>", start).replace(b"H100 80GB", b"&b;")
    assert smi_xml.parse(inside)["problem"]
    within = XML.replace(b"<nvidia_smi_log>", b'<nvidia_smi_log><!ENTITY a "b">')
    assert "declares entities" in smi_xml.parse(within)["problem"]


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["ERR!", "[Unknown Error]", "Unknown Error", "GPU requires reset", "GPU is lost"])
def test_a_suspicious_word_is_null_and_named(word: str) -> None:
    document = changed("<used>4 MiB</used>", f"<used>{word}</used>")
    answer = smi_xml.parse(document)
    gpu = answer["gpus"][0]
    assert answer["problem"] == ""
    assert answer["suspicious"] == [f"gpu 0000:1b:00.0: fb_memory_usage.used is {word}"]
    assert (gpu["memory"]["used"], observe.why(gpu, "memory.used")) == (None, "SUSPICIOUS")
    assert "SUSPICIOUS" not in observe.NOT_APPLICABLE


def test_a_suspicious_word_in_a_place_that_nobody_reads_is_found_as_well() -> None:
    document = changed("<pci_bus_id>", "<fan_speed>ERR!</fan_speed><pci_bus_id>")
    assert smi_xml.parse(document)["suspicious"] == ["gpu 0000:1b:00.0: pci.fan_speed is ERR!"]
    document = changed("<attached_gpus>", "<note>Unable to determine the device handle</note><attached_gpus>")
    assert "Unable to determine" in smi_xml.parse(document)["suspicious"][0]


def test_the_name_of_somebodys_program_accuses_no_gpu() -> None:
    info = "<process_info><pid>7</pid><type>C</type><process_name>ERR! Unknown Error</process_name></process_info>"
    document = XML.replace(b"<processes></processes>", f"<processes>{info}</processes>".encode(), 1)
    answer = smi_xml.parse(document)
    assert answer["suspicious"] == []
    assert answer["gpus"][0]["processes"][0]["pid"] == 7


def test_a_gpu_with_err_everywhere_is_told_in_few_words() -> None:
    answer = smi_xml.parse(standin.xml(standin.lost()))
    assert answer["gpus"][3]["lost"] is True
    assert len(answer["suspicious"]) == 4
    assert "more values are GPU is lost" in answer["suspicious"][-1]


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("N/A", "NOT_SUPPORTED"),
        ("[N/A]", "NOT_SUPPORTED"),
        ("[Not Supported]", "NOT_SUPPORTED"),
        ("", "NOT_SUPPORTED"),
        ("Requested functionality has been deprecated", "NOT_SUPPORTED"),
        ("Insufficient Permissions", "NO_PERMISSION"),
        ("4,00 MiB", "PARSE"),
        ("4 apples", "PARSE"),
        ("nan", "PARSE"),
        ("0x10", "PARSE"),
    ],
)
def test_a_number_that_is_none_is_null_and_says_why(word: str, why: str) -> None:
    gpu = smi_xml.parse(changed("<used>4 MiB</used>", f"<used>{word}</used>"))["gpus"][0]
    assert (gpu["memory"]["used"], observe.why(gpu, "memory.used")) == (None, why)


def test_an_element_that_is_missing_is_null_and_says_so() -> None:
    gpu = smi_xml.parse(changed("<used>4 MiB</used>", ""))["gpus"][0]
    assert (gpu["memory"]["used"], observe.why(gpu, "memory.used")) == (None, "ABSENT")


def test_every_key_of_nvml_is_there() -> None:
    for name in ("h100x8", "mixed", "mig", "consumer", "vgpu", "busy"):
        for gpu in smi_xml.parse(standin.xml(standin.DESCRIPTIONS[name]()))["gpus"]:
            assert set(gpu) == set(observations.gpu())


def test_errors_of_both_kinds_of_memory_are_added() -> None:
    gpu = third(standin.xml(standin.ecc()))
    assert gpu["ecc"]["volatile"] == {"corrected": 12, "uncorrected": 2}
    assert gpu["ecc"]["aggregate"] == {"corrected": 140, "uncorrected": 6}
    assert (gpu["ecc"]["sram_aggregate_uncorrected"], gpu["ecc"]["sram_threshold_exceeded"]) == (5, True)


def test_a_sum_with_one_unreadable_part_is_unreadable() -> None:
    gpu = smi_xml.parse(changed("<dram_uncorrectable>0<", "<dram_uncorrectable>ERR!<"))["gpus"][0]
    assert (gpu["ecc"]["volatile"]["uncorrected"], observe.why(gpu, "ecc.volatile.uncorrected")) == (None, "SUSPICIOUS")
    gpu = smi_xml.parse(changed("<dram_uncorrectable>0<", "<dram_uncorrectable>N/A<"))["gpus"][0]
    assert gpu["ecc"]["volatile"]["uncorrected"] == 0  # a GPU without that kind of memory


def test_older_drivers_are_read() -> None:
    old = XML.replace(b"clocks_event_reason", b"clocks_throttle_reason").replace(
        b"gpu_power_readings>", b"power_readings>"
    )
    assert third(old)["clocks_event_reasons"] == ["idle"]
    assert third(old)["power_w"] == 69.5
    status = "<gpu_reset_status><reset_required>{}</reset_required><drain_and_reset_recommended>No{}"
    close = "</drain_and_reset_recommended></gpu_reset_status>"
    for word, action in (("Yes", "reset"), ("No", "none"), ("N/A", None), ("ERR!", None)):
        document = changed("<gpu_recovery_action>None</gpu_recovery_action>", status.format(word, close))
        answer = smi_xml.parse(document)
        assert answer["gpus"][0]["recovery_action"] == action
        assert len(answer["suspicious"]) == (word in ("Yes", "ERR!"))
        assert (observe.why(answer["gpus"][0], "recovery_action") is None) == (action is not None)
        document = document.replace(b"ommended>No<", b"ommended>N/A<")  # as cards without a fabric have it
        assert smi_xml.parse(document)["gpus"][0]["recovery_action"] == action
    new = status.replace("No{}", "Requested functionality has been deprecated{}")
    new = new.format("Requested functionality has been deprecated", close) + "<gpu_recovery_action>"
    assert smi_xml.parse(changed("<gpu_recovery_action>", new))["gpus"][0]["recovery_action"] == "none"


@pytest.mark.parametrize(
    ("word", "action"),
    [
        ("None", "none"),
        ("Reset", "reset"),
        ("GPU Reset", "reset"),
        ("Node Reboot", "reboot"),
        ("Drain P2P", "drain_p2p"),
        ("Drain and Reset", "drain_and_reset"),
        ("N/A", None),
        ("", None),
    ],
)
def test_what_the_driver_wants_done_is_read(word: str, action: str | None) -> None:
    document = changed("<gpu_recovery_action>None<", f"<gpu_recovery_action>{word}<")
    assert smi_xml.parse(document)["gpus"][0]["recovery_action"] == action


def test_pages_that_were_given_up_are_read() -> None:
    gpu = third(standin.xml(standin.h100x8(retired_pages="3,1", retired_pending="1")))
    assert gpu["retired_pages"] == {"single_bit": 3, "double_bit": 1, "pending": True}


def test_memory_beyond_repair_is_suspicious() -> None:
    for word, count in (("Yes", 1), ("No", 0)):
        document = changed("</ecc_errors>", f"<unrepairable_memory>{word}</unrepairable_memory></ecc_errors>")
        assert len(smi_xml.parse(document)["suspicious"]) == count


def test_a_throttle_reason_in_a_foreign_word_is_not_the_absence_of_one() -> None:
    document = changed("_hw_slowdown>Not Active<", "_hw_slowdown>Nicht aktiv<")
    gpu = smi_xml.parse(document)["gpus"][0]
    assert (gpu["clocks_event_reasons"], observe.why(gpu, "clocks_event_reasons")) == (None, "PARSE")


@pytest.mark.parametrize("name", ["\"quoted\" 'GPU'", "two\nlines", "</script>", "&amp;", "\u202egnp", "caf\udce9"])
def test_hostile_names_stay_one_line_of_text(name: str) -> None:
    answer = smi_xml.parse(standin.xml(standin.h100x8(name=name)))
    assert json.loads(json.dumps(answer)) == answer
    assert "\n" not in answer["gpus"][3]["name"]
    assert "\u202e" not in answer["gpus"][3]["name"]


# -- the process -------------------------------------------------------------------------------------------------------


def test_it_is_asked_in_a_language_of_fixed_words(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("GPULAB_SECRET", "x")
    answer = smi()
    assert (answer["problem"], answer["gpus"][0]["memory"]["total"]) == ("", 81559 * standin.MIB)
    ((arguments, variables),) = smi.lab.driver.smi_calls()
    assert arguments == ["-q", "-x"]
    assert "GPULAB_SECRET" not in variables


def test_a_slow_one_is_waited_for(smi: Smi) -> None:
    answer = smi(most=8, seconds=2)  # as 45 seconds are within 60
    assert (answer["outcome"], answer["problem"], len(answer["gpus"])) == ("finished", "", 8)
    assert answer["seconds"] >= 2


def test_a_hanging_one_is_left_after_its_time(smi: Smi) -> None:
    started = time.monotonic()
    answer = smi(most=1, seconds=60)
    assert time.monotonic() - started < 4
    assert (answer["outcome"], answer["gpus"], answer["code"]) == ("timeout", [], None)
    assert answer["problem"] == "nvidia-smi did not end within 1 s"


def test_one_that_cannot_be_killed_is_left_behind_in_time(smi: Smi) -> None:
    """Held by a tracer in the middle of its exit, as a process is that hangs in a driver."""
    started = time.monotonic()
    answer = smi(most=2, unkillable=12)
    seconds = time.monotonic() - started
    if "held" not in Path(smi.lab.runner.run_directory, "nvidia-smi.xml").read_text():
        pytest.skip("this system does not let a process trace another one")
    assert (answer["outcome"], answer["gpus"]) == ("abandoned", [])
    assert "survived SIGKILL" in answer["problem"]
    assert seconds < 2 + 2  # the limit and two seconds


def test_an_answer_that_comes_before_a_hang_does_not_count(smi: Smi) -> None:
    assert smi(most=1)["problem"] == ""
    program = Path(smi.lab.driver.directory, "nvidia-smi").read_text()
    smi.replace(program.replace("sys.exit(manner", "time.sleep(60)\nsys.exit(manner"))
    answer = smi.again()
    assert answer["outcome"] == "timeout"
    assert answer["problem"] == "nvidia-smi did not end within 1 s"


@pytest.mark.parametrize(
    ("code", "words"),
    [(9, "couldn't communicate with the NVIDIA driver"), (18, "Driver/library version mismatch"), (15, "GPU is lost")],
)
def test_a_status_other_than_0_is_a_problem_whatever_is_printed(smi: Smi, code: int, words: str) -> None:
    answer = smi(output=f"Failed: {words}\n".encode(), code=code)
    assert (answer["outcome"], answer["code"]) == ("finished", code)
    assert answer["problem"] == f"nvidia-smi ended with status {code}: Failed: {words}"
    assert smi(code=code)["problem"].startswith(f"nvidia-smi ended with status {code}")


def test_one_that_crashes(smi: Smi) -> None:
    smi.replace(f"#!{sys.executable}\nimport os\nos.kill(os.getpid(), {int(signal.SIGSEGV)})\n")
    answer = smi.again()
    assert (answer["outcome"], answer["code"]) == ("crashed", -signal.SIGSEGV)
    assert answer["problem"].startswith("nvidia-smi was ended by signal 11")


def test_status_0_with_rubbish_is_a_problem(smi: Smi) -> None:
    for output in (b"", b"all is well\n", XML[:5000], b"\xff" * 100):
        answer = smi(output=output)
        assert (answer["outcome"], answer["code"]) == ("finished", 0)
        assert answer["problem"]
        assert answer["gpus"] == []


def test_warnings_on_the_other_channel_do_no_harm(smi: Smi) -> None:
    assert smi(stderr="WARNING: infoROM is corrupted at gpu 0000:17:00.0\n")["problem"] == ""


def test_one_that_is_no_program(smi: Smi) -> None:
    smi.replace("#!/nonexistent/interpreter\n")
    answer = smi.again()
    assert answer["outcome"] == "not_started"
    assert "cannot be started" in answer["problem"]


def test_a_host_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory(tmp_path, monkeypatch, standin.h100x8(), library=False, binding=False, smi=False)
    monkeypatch.setattr(observe, "MORE_PLACES", ())
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert observe.observe(lab.runner)["smi"] is None
