"""Curves of a training run: whatever becomes of their file, the run goes on."""

import errno
import logging

from lerobot_atlasvla.training.tensorboard import TrainingCurves


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("lerobot", logging.INFO, "file", 1, text, None, None)


def test_a_full_disk_ends_the_curves_and_not_the_run(tmp_path, monkeypatch, caplog):
    from torch.utils.tensorboard import SummaryWriter

    curves = TrainingCurves()
    assert curves.filter(record(f"Output dir: {tmp_path}"))
    assert curves.filter(record("step 1: eval_loss=0.5"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    for step in (2, 3):
        assert curves.filter(record(f"step {step}: eval_loss=0.5"))
    assert caplog.text.count("No more TensorBoard curves") == 1
    curves.close()
