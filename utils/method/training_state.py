"""How far Stages II and III of one run are: resume, look at losses and weights, write checkpoints."""

import sys

import torch

from utils.method.checkpoint import CheckpointFolder, restore_stage, stage_parts
from utils.system import processes
from utils.system.errors import UserError

LOG_STEPS = 10  # updates between two looks at the losses


def find_exploded(parts):
    """"part/key" of the first tensor in {part: {key: tensor}} whose norm is no finite number, else None.

    A norm overflows from 1e19 on, so weights that an absurd learning rate has left barely finite count too.
    The device is waited for once if all is well.
    """
    names = [(part, key) for part, tensors in parts.items() for key, tensor in tensors.items()
             if tensor.is_floating_point() and tensor.numel()]
    if not names:
        return None
    norms = torch._foreach_norm([parts[part][key].detach() for part, key in names])
    finite = torch.stack([norm.float().to(norms[0].device) for norm in norms]).isfinite()
    return None if finite.all() else "/".join(names[int(finite.int().argmin())])


class TrainingState:
    """What Stages II and III of a run share: the losses of their updates, and the checkpoints."""

    def __init__(self, folder, accelerator, data, log):
        """Looks for the newest whole checkpoint in `folder`; puts the residuals of finished batches into `data`."""
        self.checkpoints = CheckpointFolder(folder, warn=log)
        self.accelerator = accelerator
        self.data = data
        self.losses = {}  # stage name -> losses (n,) of its updates
        self.offset = 0  # updates of the stages before
        self.written = -1  # updates of all stages that the newest checkpoint counts; -1 without one
        self.saved_losses = {}
        self.checkpoint = self.checkpoints.newest()
        if self.checkpoint:
            log(f"going on from {self.checkpoint.path} ({self.checkpoint.state['stage']})")
            self.written = self.checkpoint.state["step"]
            self.saved_losses = self.checkpoint.load("losses")  # now: the checkpoint goes as newer ones come
            for name in self.checkpoint.state["pieces"]:
                for first, residuals in self.checkpoint.load_piece(name).items():
                    data.residuals[int(first) : int(first) + len(residuals)] = residuals
        processes.meet()  # all have read it before the first one writes another

    def resume(self, stage):
        """Puts back what the checkpoint has of a stage; the number of updates that are done."""
        self.losses[stage.name] = stage.losses
        if stage.name not in self.saved_losses:
            return 0
        if self.saved_losses[stage.name].shape != stage.losses.shape:
            raise UserError(f"{self.checkpoint.path} is of another number of images; start anew with --overwrite")
        stage.losses.copy_(self.saved_losses[stage.name])
        if self.checkpoint.state["stage"] == stage.name:
            restore_stage(stage, self.accelerator, self.checkpoint)
        return min(self.checkpoint.state["step"] - self.offset, len(stage.plan))

    def finish(self, stage):
        """To be called after the last update of a stage."""
        self.check_weights(stage, len(stage.plan))
        self.offset += len(stage.plan)
        self.accelerator.free_memory()

    def check_losses(self, stage, done):
        """Mean of the last losses; UserError when one of the first `done` is not a number any more."""
        finite = stage.losses[:done].isfinite()
        if not finite.all():
            first = int(finite.int().argmin())
            self.give_up(stage, first + 1, f"the loss is {stage.losses[first].item()}")
        return stage.losses[max(0, done - LOG_STEPS) : done].mean().item()

    def check_weights(self, stage, done):
        """UserError when what is trained, its average or its optimiser's state is not finite any more."""
        if name := find_exploded(stage_parts(stage)):
            self.give_up(stage, done, f"{name} is not finite any more")

    def give_up(self, stage, update, what):
        """UserError, from the first of several processes, which all see the same. No checkpoint holds such weights."""
        stage.leave()
        if not processes.is_first():
            sys.exit(1)
        last = self.checkpoints.path_of(self.written) if self.written >= 0 else "none"
        raise UserError(f"{stage.name}, update {update}: {what} (last checkpoint: {last}); start anew with "
                        "--overwrite and a lower learning rate, or another --mixed_precision if it was fp16")

    def save(self, stage, done):
        """Writes a checkpoint, and the residuals of a batch that has ended. UserError when nothing good is left."""
        self.check_weights(stage, done)
        if not processes.is_first() or self.written >= self.offset + done:
            return
        if done and stage.residual is not None and stage.plan.ends_round(done - 1):
            images, _ = stage.plan.samples(done - 1)
            self.checkpoints.write_piece(f"residuals/{images[0]:06d}", {str(images[0]): self.data.residuals[images]})
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        parts = {**stage_parts(stage), "losses": self.losses}
        self.checkpoints.write(self.offset + done, parts, {"stage": stage.name, "scaler": scaler})
        self.written = self.offset + done
