"""Stages II and III of one run: from the newest checkpoint on, with new ones on the way, until done or interrupted."""

import sys

import torch
from tqdm import tqdm

from utils.method.checkpoint import CheckpointFolder, restore_stage, stage_parts
from utils.method.three_stage import embedding_stage, finetune_stage, optimise
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


class TrainingRun:
    """What Stages II and III of a run share. `denoiser` and `data.residuals` have learned when `train` returns."""

    def __init__(self, run, args, settings, accelerator, denoiser, data, interruption):
        self.run = run
        self.args = args
        self.settings = settings
        self.accelerator = accelerator
        self.denoiser = denoiser
        self.data = data
        self.interruption = interruption
        self.checkpoints = CheckpointFolder(run.checkpoints, warn=run.log)
        self.losses = {}  # stage name -> losses of its updates
        self.offset = 0  # updates of the stages before
        self.written = -1  # updates of all stages that the newest checkpoint counts; -1 without one

    def train(self):
        """Both stages: {stage name: losses}. UserError when they explode; SystemExit after a signal."""
        checkpoint = self.find_checkpoint()
        saved_losses = checkpoint.load("losses") if checkpoint else {}  # now: the checkpoint goes as newer ones come
        for make_stage in (embedding_stage, finetune_stage):
            stage = make_stage(self.accelerator, self.denoiser, self.data, self.args)
            self.losses[stage.name] = stage.losses
            self.run_stage(stage, self.restore(stage, checkpoint, saved_losses))
            if len(stage.plan):
                self.run.log(f"{stage.name}: {len(stage.plan)} updates, mean loss {stage.losses.mean().item():.4f}")
            self.offset += len(stage.plan)
            self.accelerator.free_memory()
        if stage.average is not None:
            stage.average.copy_to_parameters()
        return self.losses

    def find_checkpoint(self):
        """The newest whole checkpoint, or None; the residuals of finished batches are put back."""
        checkpoint = processes.decide(self.checkpoints.newest)
        if checkpoint:
            self.written = checkpoint.state["step"]
            self.run.log(f"going on from {checkpoint.path} ({checkpoint.state['stage']})")
            for name in checkpoint.state["pieces"]:
                for first, residuals in checkpoint.load_piece(name).items():
                    self.data.residuals[int(first) : int(first) + len(residuals)] = residuals
        return checkpoint

    def restore(self, stage, checkpoint, saved_losses):
        """Puts back what a checkpoint has of a stage; the number of updates that are done."""
        if stage.name not in saved_losses:
            return 0
        stage.losses.copy_(saved_losses[stage.name])
        if checkpoint.state["stage"] == stage.name:
            restore_stage(stage, self.denoiser, self.accelerator, checkpoint)
        return min(checkpoint.state["step"] - self.offset, len(stage.plan))

    def run_stage(self, stage, done):
        """The updates of a stage after the first `done`."""
        num_steps = len(stage.plan)
        progress = tqdm(total=num_steps, initial=done, desc=stage.name, unit="update", disable=done == num_steps)
        for step in optimise(self.accelerator, self.denoiser, self.data, stage, self.args.seed, done):
            done = step + 1
            ends_batch = stage.residual is not None and stage.plan.ends_round(step)
            is_due = ends_batch or stage.residual is None and (
                done % self.args.checkpointing_steps == 0 or done == num_steps)
            is_look = is_due or done % LOG_STEPS == 0 or done == num_steps
            signal = self.interruption.agreed(is_look)
            loss = self.check_losses(stage, done) if is_look or signal else None
            if is_due or signal:
                self.save(stage, done, ends_batch)
            if signal:
                self.stop(stage, done, signal, progress)
            with self.interruption.alone():
                if is_look:
                    progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
                progress.update()
        progress.close()
        self.check_weights(stage, done)
        if self.written > self.offset + done:
            return  # to the stage of that checkpoint, which looks at a signal itself; this one has nothing to write
        if signal := self.interruption.agreed(True):  # it came after the last update, while a checkpoint was written
            self.save(stage, done)
            self.stop(stage, done, signal, progress)

    def check_losses(self, stage, done):
        """Mean of the last losses; UserError when one of the first `done` is not a number any more."""
        finite = stage.losses[:done].isfinite()
        if not finite.all():
            first = int(finite.int().argmin())
            self.give_up(stage, first + 1, f"the loss is {stage.losses[first].item()}")
        return stage.losses[max(0, done - LOG_STEPS) : done].mean().item()

    def check_weights(self, stage, done):
        """UserError when what is trained, its average or its optimiser's state is not finite any more."""
        if name := find_exploded(stage_parts(stage, self.denoiser)):
            self.give_up(stage, done, f"{name} is not finite any more")

    def give_up(self, stage, update, what):
        """UserError, from the first of several processes; all see the same. No checkpoint holds exploded weights."""
        def fail():
            last = self.checkpoints.path_of(self.written) if self.written >= 0 else "none"
            raise UserError(f"{stage.name}, update {update}: {what} (last checkpoint: {last}); start anew with "
                            "--overwrite and a lower learning rate, or another --mixed_precision if it was fp16")

        processes.decide(fail)

    def save(self, stage, done, ends_batch=False):
        """Writes a checkpoint, and the residuals of a batch that has ended. UserError when nothing good is left."""
        self.check_weights(stage, done)
        if not processes.is_first() or self.written == self.offset + done:
            return
        if ends_batch:
            images, _ = stage.plan.samples(done - 1)
            self.checkpoints.write_piece(f"residuals/{images[0]:06d}", {str(images[0]): self.data.residuals[images]})
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        state = {"stage": stage.name, "scaler": scaler, "settings": self.settings}
        parts = {**stage_parts(stage, self.denoiser), "losses": self.losses}
        self.checkpoints.write(self.offset + done, parts, state)
        self.written = self.offset + done

    def stop(self, stage, done, signal, progress):
        """Ends the process after a signal."""
        processes.leave()  # a launcher ends all as soon as one has ended
        with self.interruption.alone():
            progress.close()
        command = "the same command without --overwrite" if self.args.overwrite else "the same command"
        with self.interruption.alone():
            self.run.log(f"interrupted in {stage.name} after update {done} of {len(stage.plan)}; "
                         f"{command} goes on from here")
        sys.exit(128 + signal)
