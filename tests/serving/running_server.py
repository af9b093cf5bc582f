"""Runs a server in a thread, for tests."""

import contextlib
import socket
import threading
import time

from dgr_trainer.data.passages import Passage

EVIL = Passage(
    "a/b?ü#c",
    "<script>document.body.id='run'</script>",
    'Honey <img src=x onerror="document.body.id=1"> bees & <b>bold</b> flowers.',
    ("where are <i>flowers</i>",),
)
"""A passage with HTML in its texts and other signs in its id."""


@contextlib.contextmanager
def listening(systems, *, until_loaded=True, **settings):
    """Serve on a free port in a thread; yields the address. `systems`: name -> system or what makes it."""
    from dgr_trainer.serving.batching import SearchQueue
    from dgr_trainer.serving.metrics import ServerMetrics
    from dgr_trainer.serving.server import make_server
    from dgr_trainer.serving.settings import ServeSettings

    settings = ServeSettings(port=0, **settings)
    metrics = ServerMetrics()
    queues = [
        SearchQueue(name, one if callable(one) else lambda one=one: one, settings, metrics)
        for name, one in systems.items()
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(queues, settings, metrics)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        end = time.monotonic() + 180  # Kernels of the index may have to be compiled.
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        while until_loaded and any(queue.state == "loading" for queue in queues) and time.monotonic() < end:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
