"""Exponential moving average of weights while they are trained."""

import torch


class WeightAverage:
    """The running average of parameters: average = decay * average + (1 - decay) * parameter, each update.

    The decay grows from 0.1 to `decay` as (1 + n) / (10 + n) over the updates n (as TensorFlow's
    ExponentialMovingAverage does), so that an average of a few hundred updates is not held back by its start.
    """

    def __init__(self, parameters, decay):
        self.parameters = list(parameters)
        self.decay = decay
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, num_updates):
        """Take in the parameters after update number `num_updates` (from 0)."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    @torch.no_grad()
    def copy_to_parameters(self):
        """Overwrite the parameters with their averages; training on from there would be another run."""
        torch._foreach_copy_(self.parameters, self.averages)
