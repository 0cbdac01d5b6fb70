"""Views of encoded images: cut as by torchvision, the same for any number of workers.

The memory that they take does not grow with the data.
"""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from accelerate import Accelerator
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode

from prosmin.common.errors import UserError
from prosmin.common.files import write_json
from prosmin.data import feed
from prosmin.data.feed import Crops, Encoded, Resident, Streamed
from prosmin.fetching.folders import folder as from_folder
from prosmin.fetching.writing import write_dataset
from prosmin.models import store
from prosmin.training import loop
from prosmin.training.settings import TrainSettings
from prosmin.views.make import crop_boxes, make_views
from prosmin.views.settings import ViewSettings

ROOT = Path(__file__).parents[3]
PLAIN = ViewSettings(size=32, flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)


def photograph(number: int = 0) -> Image.Image:
    return Image.fromarray(load_sample_images().images[number])  # 640 x 427


def encoded(picture: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def dataset(folder: Path, count: int, side: int = 160, quality: int = 90) -> Path:
    """JPEGs of assorted sizes in two splits, as ``stages.fetch`` would leave them."""
    rng = np.random.default_rng(0)
    for split, part in (("train", count), ("val", count // 4)):
        for place in range(part):
            for label, picture in enumerate((photograph(0), photograph(1))):
                height, width = rng.integers(side // 2, side, 2).tolist()
                top, left = int(rng.integers(0, 427 - height)), int(rng.integers(0, 640 - width))
                path = folder / "photos" / split / str(label) / f"{place:03d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.crop((left, top, left + width, top + height)).save(path, quality=quality)
    out = folder / "data"
    out.mkdir()
    source = from_folder(str(folder / "photos"))
    write_json(
        out / "manifest.json", write_dataset(out, source, seed=0, val_fraction=0, test_fraction=0)
    )
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return dataset(tmp_path_factory.mktemp("streamed"), 40)


# --- one image ------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_box_is_cut_as_torchvision_cuts_it(kind, interpolation):
    content = encoded(photograph(), kind)
    boxes = [[10, 20, 60, 50], [100, 300, 40, 90], [0, 0, 427, 640], [200, 5, 33, 33]]
    settings = [ViewSettings(size=size, interpolation=interpolation) for size in (32, 48, 300, 33)]
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    mode = InterpolationMode(interpolation)
    for box, view, crop in zip(
        boxes, settings, Encoded(content).cut(torch.tensor(boxes), settings, 3), strict=True
    ):
        theirs = np.asarray(
            reference.resized_crop(whole, *box, [view.size] * 2, mode, antialias=True)
        )
        assert np.abs(crop.permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 1


def test_where_no_crop_needs_more_a_jpeg_is_decoded_smaller_and_hardly_differs(monkeypatch):
    content, drafts = encoded(photograph(), quality=95), []
    kept = JpegImageFile.draft
    monkeypatch.setattr(
        JpegImageFile, "draft", lambda self, *args: (kept(self, *args), drafts.append(self.size))[0]
    )
    boxes = torch.tensor(
        [[12, 20, 300, 312], [48, 200, 280, 292]]
    )  # whole pixels at a quarter, too
    settings = [ViewSettings(size=64), ViewSettings(size=32)]
    small = Encoded(content).cut(boxes, settings, 3)
    assert drafts == [(160, 107)]  # a quarter: 300 / 4 is above 64, an eighth of it is not
    monkeypatch.setattr(feed, "REDUCTIONS", ())
    whole = Encoded(content).cut(boxes, settings, 3)
    assert len(drafts) == 1
    for reduced, full in zip(small, whole, strict=True):
        assert (reduced.int() - full.int()).abs().float().mean() < 3


def test_grey_is_cut_from_the_luma():
    content = encoded(photograph(), quality=95)
    box = torch.tensor([[10, 20, 60, 50]])
    (grey,), (colour,) = (Encoded(content).cut(box, [PLAIN], channels) for channels in (1, 3))
    luma = np.asarray(Image.fromarray(colour.permute(1, 2, 0).numpy()).convert("L"))
    assert grey.shape == (1, 32, 32) and np.abs(grey[0].numpy().astype(int) - luma).max() <= 3
    (repeated,) = Encoded(encoded(photograph().convert("L"))).cut(box, [PLAIN], 3)
    assert (repeated[0] == repeated[1]).all()


def test_a_picture_that_its_camera_turned_is_cut_upright():
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn clockwise to be upright
    content = encoded(photograph(), exif=turned)
    assert Encoded(content).size == (640, 427)
    upright = photograph().transpose(Image.Transpose.ROTATE_270)
    box = torch.tensor([[100, 48, 300, 200]])
    (crop,), (expected,) = (
        Encoded(data).cut(box, [PLAIN], 3) for data in (content, encoded(upright))
    )
    assert (crop.int() - expected.int()).abs().float().mean() < 3


def test_a_box_of_less_than_a_pixel_is_one_pixel():
    content = encoded(photograph(), "PNG")
    (crop,) = Encoded(content).cut(torch.tensor([[426.9, 639.8, 0.1, 0.2]]), [PLAIN], 3)
    assert (crop == torch.tensor(np.array(photograph())[426, 639]).view(3, 1, 1)).all()


# --- a feed ---------------------------------------------------------------------------------------


TWO = (PLAIN, ViewSettings(size=24))


def views(feed, rows, first=0, rank=0, settings=TWO):
    return list(feed.views(torch.tensor(rows), settings, 7, 2, first, rank))


ROWS = [[3, 99, 41, 80], [0, 1, 2, 98], [50, 60, 70, 90]]


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_views(data, workers):
    alone = views(Streamed(data, ["train", "val"], 3), ROWS)
    others = views(Streamed(data, ["train", "val"], 3, workers), ROWS)
    assert len(alone) == len(others) == 3
    for step, again in zip(alone, others, strict=True):
        assert [view.shape for view in step] == [(4, 3, 32, 32), (4, 3, 24, 24)]
        assert all(torch.equal(*pair) for pair in zip(step, again, strict=True))
    assert not torch.equal(alone[0][0], alone[1][0])


def test_a_step_is_the_same_wherever_the_epoch_is_begun(data):
    feed = Streamed(data, ["train"], 3)
    rows = [[3, 4], [5, 6], [7, 8]]
    whole, rest = views(feed, rows), views(feed, rows[1:], first=1)
    assert all(
        torch.equal(*pair) for pair in zip(whole[1] + whole[2], rest[0] + rest[1], strict=True)
    )
    assert not torch.equal(views(feed, rows[:1], rank=1)[0][0], whole[0][0])


def test_the_views_are_the_boxes_drawn_for_the_step(data):
    feed = Streamed(data, ["train", "val"], 3)
    ((made,),) = views(feed, [ROWS[0]], settings=[PLAIN])
    crops = Crops(data, ["train", "val"], 3, [PLAIN], (7, 2, 0), [(0, ROWS[0])])
    contents = [crops.content(row) for row in ROWS[0]]
    sizes = torch.tensor([Encoded(content).size for content in contents], dtype=torch.float32)
    (boxes,), (flips,) = crop_boxes(sizes[:, 0], sizes[:, 1], [PLAIN], 7, 2, 0)
    assert not flips.any()
    area = boxes[:, 2] * boxes[:, 3] / sizes.prod(1)
    assert ((area > 0.1) & (area <= 1)).all() and (
        boxes[:, :2] + boxes[:, 2:] <= sizes + 1e-3
    ).all()
    for image, content, box in zip(made, contents, boxes, strict=True):
        (expected,) = Encoded(content).cut(box[None], [PLAIN], 3)
        assert torch.equal(image, expected.float() / 255)
    with pytest.raises(IndexError):
        crops.content(100)


def test_flip_and_colours_are_drawn_as_for_images_in_memory(data):
    settings = ViewSettings(size=32, flip=1.0, jitter=0.0, grayscale=0.0, blur=0.0, solarize=1.0)
    plain, changed = (
        views(Streamed(data, ["train"], 3), [[1, 2, 3]], settings=[view])[0][0]
        for view in (PLAIN, settings)
    )
    mirrored = plain.flip(-1)
    assert torch.allclose(changed, torch.where(mirrored >= 0.5, 1 - mirrored, mirrored))
    turned = views(
        Streamed(data, ["train"], 3), [[1, 2, 3]], settings=[ViewSettings(size=32, rotate=30.0)]
    )[0][0]
    assert turned.shape == plain.shape and not turned.isnan().any() and float(turned.max()) <= 1


def test_images_in_memory_are_fed_as_ever():
    images = torch.randint(0, 256, (100, 3, 40, 40), dtype=torch.uint8)
    feed = Resident(images)
    steps = views(feed, ROWS, first=5)
    expected = make_views(images[ROWS[1]], TWO, 7, 2, 6)
    assert all(torch.equal(*pair) for pair in zip(steps[1], expected, strict=True))
    assert feed.facts() == Resident(images.clone()).facts() != Resident(images[1:]).facts()


def test_small_images_are_not_streamed(tmp_path):
    (tmp_path / "in/a").mkdir(parents=True)
    for place in range(4):
        Image.new("RGB", (20, 20), (place, 0, 0)).save(tmp_path / f"in/a/{place}.png")
    (tmp_path / "out").mkdir()
    manifest = write_dataset(
        tmp_path / "out", from_folder(str(tmp_path / "in")), seed=0, val_fraction=0, test_fraction=0
    )
    write_json(tmp_path / "out/manifest.json", manifest)
    with pytest.raises(
        UserError,
        match="are kept as pixels, small enough for the device; set pretrain.stream to false",
    ):
        Streamed(tmp_path / "out", ["train"], 3)


# --- a run ----------------------------------------------------------------------------------------


def trained(feed):
    model = store.build_model(
        store.ModelSettings(
            "resnet18",
            16,
            3,
            (0.5,) * 3,
            (0.25,) * 3,
            32,
            8,
            True,
            {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
        )
    )
    settings = TrainSettings(image_size=16, epochs=2, batch_size=32, lr=2e-3, warmup_epochs=1)
    history = loop.pretrain(model, feed, settings, 0, Accelerator(cpu=True))
    return model.state_dict(), history


def test_a_run_on_streamed_images_has_the_same_weights_with_any_number_of_workers(data):
    (alone, history), (others, _) = (
        trained(Streamed(data, ["train", "val"], 3, workers)) for workers in (0, 2)
    )
    assert all(torch.equal(alone[name], others[name]) for name in alone)
    assert [row["step"] for row in history.loss] == [3, 6]


USED = """
import ctypes, sys, torch
from pathlib import Path
from prosmin.data.feed import Streamed
from prosmin.views.settings import ViewSettings
# PR_SET_THP_DISABLE: pages of 4 KiB, because a few pages of 2 MiB would hide the difference
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
torch.set_num_threads(1)
feed = Streamed(sys.argv[1], ["train"], 3)
order = torch.arange(len(feed)).view(-1, 20)
most = 0
for _ in feed.views(order, [ViewSettings(size=64, blur=0.0)] * 2, 0, 0, 0, 0):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    most = max(most, int(status["RssAnon"].split()[0]))
print(most)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_memory_does_not_grow_with_the_data(tmp_path):
    """The process's own memory, during an epoch of 40 images and of 600 images.

    Pages of the mapped file do not count, because the system takes them back.
    """
    used, size = [], []
    for count in (20, 300):
        (tmp_path / str(count)).mkdir()
        out = dataset(tmp_path / str(count), count, side=400, quality=100)
        done = subprocess.run(
            [sys.executable, "-c", USED, str(out)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        used.append(int(done.stdout) * 2**10)
        size.append((out / "train.arrow").stat().st_size)
    assert size[1] - size[0] > 30 * 2**20
    assert used[1] - used[0] < (size[1] - size[0]) / 4, (used, size)
