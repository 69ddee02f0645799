"""A window in the browser that restores photos: `python main.py --mode=app`.

In Jupyter and Colab: `from app import launch; launch()`.
"""
import atexit
import contextlib
import html
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import quote

import utils
from utils import UserError

from easydict import EasyDict

from config import config

with utils.quiet():  # in a notebook, nobody else keeps TensorFlow's notes off the screen
    import restore
    from engine import devices
    from engine.restorer import make_restorers
    from files import images, photo_files, shipped

FOLDER = Path(tempfile.mkdtemp(prefix="srgan-app-"))  # of all that is uploaded and restored
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ.update(GRADIO_TEMP_DIR=str(FOLDER), GRADIO_ANALYTICS_ENABLED="False")

import gradio as gr  # noqa: E402 (it reads these as it is imported)
from gradio import processing_utils  # noqa: E402
from starlette.staticfiles import StaticFiles  # noqa: E402 (Gradio brings it, and is what has to be named)

KINDS = [("A photo: from a phone, a camera, the internet", "photo"),
         ("A clean picture: a rendering, a drawing, anything that never was a JPEG", "srgan")]
SCALES = [*((f"{scale} times", scale) for scale in (2, 3, 4, 8)), ("As long as ...", 0)]
FORMATS = [("PNG: exact", "png"), ("JPEG: small", "jpg"), ("WebP", "webp"), ("AVIF: smallest", "avif")]
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # Gradio's own are on another server
WELCOME = f"# Enlarge photos\nDrop in photos ({photo_files.FORMAT_NAMES}) and press **Enlarge**. Nothing leaves {{}}."
CSS = """iframe { width: 100%; height: min(85vh, 50rem); border: 0 }
#downloads a { display: inline-block; padding: 0.5rem; text-decoration: underline }
label { overflow-wrap: anywhere }"""


class Stopped(Exception):
    """Whoever started the work has no more use for it."""


def launch(share_on_network: bool = False, settings: EasyDict = config, weights: str | None = None) -> None:
    """Open the window. In a script, wait until Ctrl-C or SIGTERM ends the program; a notebook goes on.

    share_on_network: let other machines use it, too. settings: as for `--input`. weights: as `--weights`. Raises
    UserError.
    """
    in_notebook = "ipykernel" in sys.modules
    images.limit_pixels(settings.RESTORE.max_megapixels)
    if not in_notebook:  # where TensorFlow may be in use already
        devices.choose_devices(settings.TRAIN.devices)
    window = Window(settings, weights, "the machine that this page comes from" if share_on_network else "this machine")
    try:
        window.page.launch(
            server_name="0.0.0.0" if share_on_network else "127.0.0.1", share=False, ssr_mode=False, quiet=True,
            inbrowser=_has_screen() and not in_notebook, prevent_thread_lock=True, theme=gr.themes.Default(**FONTS),
            css=CSS, footer_links=[], run_history=False, enable_monitoring=False, height=900)
    except OSError as error:
        raise UserError(f"No port is free for the window ({error}).") from error
    window.page.app.mount("/results", StaticFiles(directory=window.results))
    print(f"The window is at {window.page.local_url}; open it in a browser.")
    if share_on_network:
        print(f"From other machines: http://{_address()}:{window.page.server_port}/. Anyone on this network can use "
              "it.")
    if in_notebook:
        return
    print("Ctrl-C ends it.")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP; nohup lets it outlive the terminal
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        while True:
            time.sleep(1)
    finally:
        window.close()


def _has_screen():
    """Whether a browser would open in a window of its own, not in the terminal."""
    return os.name == "nt" or sys.platform == "darwin" or bool(os.environ.get("DISPLAY"))


def _address():
    """This machine's address in its network, as its routes say; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of nobody, RFC 5737
        return probe.getsockname()[0]
    return socket.gethostname()


async def _refuse_address(*_, **__):
    raise gr.Error("Photos are uploaded; addresses are not fetched.")


processing_utils.async_ssrf_protected_download = _refuse_address  # else any visitor makes this machine fetch files


class Window:
    """The page, and the work that its visitors started."""

    def __init__(self, settings: EasyDict, weights: str | None, here: str):
        """settings: those of a run. weights: of --weights. here: what no photo leaves, as the page says it."""
        self.settings, self.weights, self.stops, self.computing = settings, weights, {}, threading.Lock()
        self.results = Path(tempfile.mkdtemp(dir=FOLDER))
        found = list(self._find("").values())
        usual = "Find out from the file" if len(found) > 1 else f"Take {shipped.describe(*found)}"
        with gr.Blocks(title="Enlarge photos", analytics_enabled=False) as self.page:
            gr.Markdown(WELCOME.format(here))
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    photos = gr.File(label="Photos", file_count="multiple", height=180)
                    scale = gr.Radio(SCALES, value=4, label="How large?")
                    side = gr.Number(2048, precision=0, label="Pixels of the longer side", visible=False)
                    kind = gr.Radio([(usual, ""), *KINDS], value="", label="What is it?")
                    blend = gr.Slider(0, 1, value=settings.RESTORE.blend, step=0.05, label="Invented detail",
                                      info="0 shows only what is certain, 1 is the sharpest")
                    form = gr.Radio(FORMATS, value="png", label="Save as")
                    with gr.Row():
                        start = gr.Button("Enlarge", variant="primary")
                        cancel = gr.Button("Cancel", interactive=False)
                with gr.Column(scale=2, min_width=320):
                    status, view = gr.HTML(min_height=60), gr.HTML()
            folder = gr.State(delete_callback=_remove)
            scale.change(lambda scale: gr.Number(visible=not scale), scale, side, queue=False, api_visibility="private")
            start.click(self._begin, None, [start, cancel, view], queue=False, api_visibility="private").then(
                self._run, [photos, scale, side, kind, blend, form, folder], [status, view, folder],
                show_progress_on=status, concurrency_limit=None, api_visibility="private").then(
                _end, None, [start, cancel], queue=False, api_visibility="private")
            cancel.click(self._cancel, None, cancel, queue=False, api_visibility="private")
            self.page.unload(self._leave)

    def close(self) -> None:
        """End all work and the server."""
        for stop in self.stops.values():
            stop.set()
        self.page.close(verbose=False)

    def _find(self, kind):
        """The weights for what the visitor says that it is; for "" those that `--input` takes, too."""
        trained = Path(self.settings.TRAIN.checkpoint_path)
        return shipped.find_generators(kind or self.weights, trained, scoring=False)

    def _begin(self, request: gr.Request):
        self.stops[request.session_hash] = threading.Event()
        return gr.Button(interactive=False), gr.Button(interactive=True), ""

    def _cancel(self, request: gr.Request):
        self.stops[request.session_hash].set()
        return gr.Button(interactive=False)

    def _leave(self, request: gr.Request):
        self.stops.pop(request.session_hash, threading.Event()).set()

    def _run(self, paths, scale, side, kind, blend, form, before, request: gr.Request,
             progress=gr.Progress()):  # noqa: B008 (Gradio's way)
        """Restore photos. Returns what the page says, what it shows, and the folder of the results."""
        if not paths:
            return _lines("There is no photo yet: drop one into the field above the settings."), "", None
        _remove(before)
        stop, began = self.stops[request.session_hash], time.monotonic()

        def report(label, share):
            if stop.is_set():
                raise Stopped
            left = (time.monotonic() - began) * (1 / share - 1) if share else 0
            progress(share, desc=label + (f", about {utils.time_left(left)} left" if left else ""))

        found = self._find(kind)
        folder = Path(tempfile.mkdtemp(dir=self.results))
        jobs = restore.photos_to_restore(
            _apart(paths, folder / "photos"), folder, next(iter(found)), blend, form)
        lines = []
        try:
            while not self.computing.acquire(timeout=0.2):
                report("Waiting for the photos of someone else", 0)
            try:
                report("Starting", 0)
                began = time.monotonic()
                size = ("scale", scale) if scale else ("long-side", side or 0)
                self._restore(jobs, found, size, folder, report)
            finally:
                self.computing.release()
        except Stopped:
            lines.append("Cancelled.")
        except UserError as error:
            lines.append(str(error))
        done = [job.target for job in jobs if job.target.exists()]
        lines += [str(job.error) for job in jobs if job.error]
        lines.append(f"{len(done)} of {utils.plural(len(jobs), 'photo')} done.")
        lines = [re.sub(re.escape(str(folder)) + r"\W(photos\W\d+\W)?", "", line) for line in lines]
        return _lines(*lines), _view(folder, done), folder

    def _restore(self, jobs, found, size, folder, report):
        """As `restore.restore` does."""
        options = self.settings.RESTORE
        scale = restore.set_size(jobs, size)
        restore.take_weights_by_kind(jobs, found, scale or 4)
        restore.mark_jobs(jobs, found, options)
        generators = restore.generators_of(jobs, found, options.back_project)
        restorers = make_restorers(generators, options, self.settings, scale)
        restore.run_jobs(jobs, restorers, restore.output_folder(jobs, folder), report=report)


def _apart(paths, folder):
    """The uploaded files in folders of their own with short names, since phones give all photos the same name."""
    links = [folder / str(number) / Path(path).name for number, path in enumerate(paths, 1)]
    for path, link in zip(paths, links, strict=True):
        link.parent.mkdir(parents=True)
        os.link(path, link)
    return links


def _view(folder, files):
    """Links to the results, and the page that compares them with the photos."""
    if len(files) > 1:
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for file in files:
                archive.write(file, file.name)
        files = [folder / "all.zip", *files]
    url = f"results/{folder.name}/"
    links = "".join(f'<a download href="{url}{quote(file.name)}">{html.escape(file.name)}</a> ' for file in files)
    page = f'<iframe src="{url}index.html" title="Before and after"></iframe>' if (
        folder / "index.html").exists() else ""
    return f'<p id="downloads">Download: {links}</p>{page}' if files else ""


def _lines(*lines):
    """Lines of plain text as HTML that screen readers announce."""
    return f'<div id="status" role="status">{"".join(f"<p>{html.escape(line)}</p>" for line in lines)}</div>'


def _end():
    return gr.Button(interactive=True), gr.Button(interactive=False)


def _remove(folder):
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
