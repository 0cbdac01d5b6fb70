"""The parts of the machine that points of a sweep get."""

from pipelines.flows.points import Slots


def test_slots_are_equal_parts_of_cores_memory_and_gpus(monkeypatch):
    for name, value in {
        "PROSMIN_CORES": "5",
        "PROSMIN_MEMORY": "3GiB",
        "CUDA_VISIBLE_DEVICES": "3,5,7",
    }.items():
        monkeypatch.setenv(name, value)
    slots = Slots(2)
    with slots.taken() as first, slots.taken() as second:
        assert [first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]] == ["3,7", "5"]
        for part in (first, second):
            assert (part["PROSMIN_CORES"], part["PROSMIN_MEMORY"]) == ("2", "1536MiB")
