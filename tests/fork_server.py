"""`python -m tests.fork_server FD`: forks processes that run Python scripts, from one that has imported what they need.

Importing torch and diffusers takes seconds, forking a process that has them hundredths of one. What is forked is a
process of its own in all else: arguments, folder, environment, streams, signals, exit status. See tests/scripts.py.
"""

import gc
import json
import multiprocessing.process
import os
import runpy
import socket
import sys
import types

PRELOADED = """
accelerate ai_edge_litert.interpreter numpy openai peft PIL.Image safetensors.torch scipy.stats scipy.spatial.transform
torch.distributed torch.utils.data torch._inductor.cudagraph_trees torchmetrics diffusers.StableDiffusionPipeline
diffusers.DPMSolverMultistepScheduler diffusers.UniPCMultistepScheduler transformers.AutoModelForCausalLM
transformers.AutoProcessor transformers.CLIPModel transformers.CLIPProcessor transformers.CLIPTokenizer
transformers.VisionEncoderDecoderModel transformers.ViTImageProcessor transformers.Blip2ForConditionalGeneration
transformers.PaliGemmaForConditionalGeneration transformers.GenerationConfig transformers.optimization
""".split()


def preload():
    for name in PRELOADED:
        package, _, attribute = name.rpartition(".")
        if package in ("diffusers", "transformers"):  # their classes are imported when asked for
            getattr(__import__(package), attribute)
        else:
            __import__(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads forks ones that hang"
    gc.collect()
    gc.freeze()  # no collection touches these objects in every child


def serve(connection):
    """Answers every request with the number of a new process; returns, with the request, in the new processes only."""
    stream = connection.makefile("rwb")
    while True:
        _, descriptors, *_ = socket.recv_fds(connection, 1, 3)
        if not descriptors:
            sys.exit()  # the tests are over
        request = json.loads(stream.readline())
        reader, writer = os.pipe()
        between = os.fork()
        if not between:
            # The middle process ends at once, so that its child becomes that of the tests (see tests/scripts.py)
            forked = os.fork()
            if forked:
                os.write(writer, b"%d\n" % forked)
                os._exit(0)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            for descriptor in (reader, writer, *descriptors):
                os.close(descriptor)
            stream.close()
            connection.close()
            return request
        os.waitpid(between, 0)
        stream.write(os.read(reader, 20))
        stream.flush()
        for descriptor in (reader, writer, *descriptors):
            os.close(descriptor)


def run(args, folder, environment):
    """What `python *args` would do, in this process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()
    first, *rest = args
    if first == "-m":
        sys.path[0], sys.argv[:] = os.getcwd(), rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    if first == "-c":
        code, name, sys.path[0], sys.argv[:] = rest[0], "<string>", "", ["-c", *rest[1:]]
    else:
        main.__file__ = name = os.path.abspath(first)
        sys.path[0], sys.argv[:] = os.path.dirname(os.path.realpath(first)), args
        with open(name, "rb") as file:
            code = file.read()
    sys.modules["__main__"] = main
    exec(compile(code, name, "exec"), main.__dict__)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        preload()
        connection.sendall(b"ready\n")
        request = serve(connection)
    run(**request)
