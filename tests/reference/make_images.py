"""Makes the folder images/: pictures of every kind, what Pillow decodes and resizes them to, and what the image processors of
transformers and the transform of OpenCLIP make of them.

    pip install -r requirements.txt
    python make_images.py

The processors are those that use Pillow; given a path they turn it as its EXIF orientation says, and convert it to RGB.
Pillow 13 resizes some shapes by columns before rows, where versions before it, as this library, take rows first.
"""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from open_clip.transform import PreprocessCfg, image_transform_v2
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

ROOT = Path(__file__).resolve().parent / "images"
FILES = ROOT / "files"
random = np.random.default_rng(1)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(samples, depth):
    """Rows of whole numbers as PNG lays them out, each behind its filter's number, none."""
    rows = []
    for row in samples.reshape(samples.shape[0], -1):
        if depth == 16:
            rows.append(b"\0" + row.astype(">u2").tobytes())
        else:
            bits = "".join(format(int(value), f"0{depth}b") for value in row)
            bits += "0" * (-len(bits) % 8)
            rows.append(b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    return b"".join(rows)


def png(name, samples, depth, colour, before=b"", interlaced=False, after=b""):
    height, width = samples.shape[:2]
    passes = [samples]
    if interlaced:
        grid = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        passes = [samples[y::down, x::across] for y, x, down, across in grid]
    data = b"".join(packed(part, depth) for part in passes if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    (FILES / (name + ".png")).write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(data, 9)) + after
        + chunk(b"IEND", b""))


def noise(height, width, channels=1, most=255):
    return random.integers(0, most + 1, (height, width, channels))


def photograph(height, width):
    """Smooth, with noise and edges, so that a JPEG of it is small and no filter leaves it as it is."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = [np.sin(9 * x + 3 * y), np.cos(7 * y - 2 * x * x), np.sin(20 * x * y)]
    picture = 127 + 100 * np.stack(channels, -1) + random.normal(0, 8, (height, width, 3))
    picture[height // 3:height // 2, width // 4:width // 2] = (250, 10, 30)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def make_files():
    palette = chunk(b"PLTE", random.integers(0, 256, 3 * 256).astype(np.uint8).tobytes())
    for depth in (1, 2, 4, 8, 16):
        png(f"grey{depth}", noise(5, 9, 1, 2 ** depth - 1), depth, 0)
        if depth <= 8:
            size = 3 * 2 ** depth
            png(f"palette{depth}", noise(5, 9, 1, 2 ** depth - 1), depth, 3, chunk(b"PLTE", palette[8:8 + size]))
    for depth in (8, 16):
        png(f"grey_alpha{depth}", noise(6, 7, 2, 2 ** depth - 1), depth, 4)
        png(f"rgb{depth}", noise(6, 7, 3, 2 ** depth - 1), depth, 2)
        png(f"rgba{depth}", noise(6, 7, 4, 2 ** depth - 1), depth, 6)
    png("grey16_dark", noise(5, 9, 1, 300), 16, 0)
    png("palette_short", noise(5, 9, 1, 40), 8, 3, chunk(b"PLTE", palette[8:8 + 60]))
    png("palette_alpha", noise(5, 9, 1, 255), 8, 3, palette + chunk(b"tRNS", bytes(range(0, 200, 2))))
    png("grey_key", noise(5, 9, 1, 3), 2, 0, chunk(b"tRNS", struct.pack(">H", 2)))
    png("rgb_key", noise(5, 9, 3, 1), 8, 2, chunk(b"tRNS", struct.pack(">HHH", 1, 0, 1)))
    png("gamma", noise(4, 4, 3), 8, 2, chunk(b"gAMA", struct.pack(">I", 100000)))
    png("interlaced_rgb", noise(11, 13, 3), 8, 2, interlaced=True)
    png("interlaced_palette4", noise(9, 3, 1, 15), 4, 3, chunk(b"PLTE", palette[8:8 + 48]), interlaced=True)
    png("one_pixel", noise(1, 1, 3), 8, 2)
    y, x = np.mgrid[0:100, 0:100]
    png("coordinates", np.stack([x, y, 0 * x], -1), 8, 2)
    png("oriented", noise(4, 6, 3), 8, 2, chunk(b"eXIf", orientation(6)[6:]))
    png("oriented_late", noise(4, 6, 3), 8, 2, after=chunk(b"eXIf", orientation(8)[6:]))

    wide, high = photograph(31, 45), photograph(50, 24)
    wide.save(FILES / "420.jpg", quality=85)
    high.save(FILES / "444.jpg", quality=90, subsampling=0)
    wide.save(FILES / "422.jpg", quality=80, subsampling=1)
    wide.save(FILES / "progressive.jpg", quality=75, progressive=True)
    wide.save(FILES / "restarts.jpg", quality=75, restart_marker_blocks=2)
    high.save(FILES / "rgb.jpg", quality=90, keep_rgb=True)
    high.convert("L").save(FILES / "grey.jpg", quality=85)
    high.convert("L").save(FILES / "grey_progressive.jpg", quality=85, progressive=True)
    high.convert("CMYK").save(FILES / "cmyk.jpg", quality=90)
    photograph(1, 1).save(FILES / "one_pixel.jpg")
    photograph(1, 40).save(FILES / "flat.jpg")
    for value in range(1, 9):
        photograph(9, 14).save(FILES / f"oriented{value}.jpg", quality=90, exif=orientation(value))


def decoded(path, turned=True):
    image = Image.open(path)
    return torch.from_numpy(np.array((ImageOps.exif_transpose(image) if turned else image).convert("RGB")))


def fnv(values):
    digest = 0xCBF29CE484222325
    for value in values.tobytes():
        digest = (digest ^ value) * 0x100000001B3 % 2 ** 64
    return format(digest, "016x")


SIZES = [(1, 1), (2, 3), (7, 5), (12, 19), (17, 16), (18, 17), (16, 17), (1, 17), (16, 1), (3, 40), (40, 3), (8, 9),
         (33, 31), (34, 32), (5, 5), (64, 2), (2, 64), (15, 18)]
SOURCES = {"picture": (16, 17, 3), "pixel": (1, 1, 3), "row": (1, 90, 3), "column": (120, 1, 3), "grey": (11, 6, 1)}


def make_resized():
    """Named by the source, the width, the height and Pillow's number of the filter."""
    tensors, digests = {}, {}
    for source, (height, width, channels) in SOURCES.items():
        pixels = noise(height, width, channels).astype(np.uint8)
        if source == "grey":
            pixels = (pixels > 127).astype(np.uint8) * 255  # so that filters overshoot
        tensors[source] = torch.from_numpy(pixels)
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        for size in SIZES if source == "picture" else SIZES[:12:2]:
            for resample in range(6):
                found = np.array(image.resize(size, resample)).reshape(size[1], size[0], channels)
                tensors[f"{source} {size[0]} {size[1]} {resample}"] = torch.from_numpy(found)
    y, x, c = np.mgrid[0:375, 0:500, 0:3]
    large = Image.fromarray(((x * (3 + c) + y * y + x * y // 7) % 256).astype(np.uint8))
    for size in [(224, 224), (298, 224), (1000, 750), (499, 376), (37, 500)]:
        for resample in range(6):
            digests[f"{size[0]} {size[1]} {resample}"] = fnv(np.array(large.resize(size, resample)))
    save_file(tensors, ROOT / "resized.safetensors")
    (ROOT / "resized_large.json").write_text(json.dumps(digests, indent=1) + "\n")


PICTURES = ["420.jpg", "444.jpg", "oriented6.jpg", "rgba8.png", "one_pixel.png"]
CLIP = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}
PROCESSORS = {
    "clip": (CLIPImageProcessorPil, CLIP),
    "clip_odd": (CLIPImageProcessorPil, {"size": {"shortest_edge": 19}, "crop_size": {"height": 12, "width": 15}}),
    "clip_pads": (CLIPImageProcessorPil, {"size": {"shortest_edge": 10}, "crop_size": {"height": 15, "width": 13}}),
    "clip_keeps_size": (CLIPImageProcessorPil, {"do_resize": False, "crop_size": 17}),
    "clip_bytes": (CLIPImageProcessorPil, {**CLIP, "do_rescale": False}),
    "clip_rescaled": (CLIPImageProcessorPil, {**CLIP, "do_normalize": False, "rescale_factor": 0.01}),
    "bit": (BitImageProcessorPil, {**CLIP, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    "bit_lanczos": (BitImageProcessorPil, {**CLIP, "resample": 1}),
    "siglip": (SiglipImageProcessorPil, {"size": {"height": 16, "width": 16}}),
    "siglip_wide": (SiglipImageProcessorPil, {"size": {"height": 12, "width": 20}, "resample": 2}),
    "vit": (ViTImageProcessorPil, {"size": {"height": 16, "width": 16}}),
    "vit_box": (ViTImageProcessorPil, {"size": 14, "resample": 4}),
    "vit_nearest": (ViTImageProcessorPil, {"size": 21, "resample": 0}),
}
OPEN_CLIP = {
    "open_clip": (18, {}),
    "open_clip_odd": (15, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear"}),
    "open_clip_squash": (16, {"resize_mode": "squash", "interpolation": "bilinear"}),
    "open_clip_longest": (17, {"resize_mode": "longest", "fill_color": 77}),
    "open_clip_cover": ([12, 21], {}),
}
OPEN_CLIP_PICTURES = ["420.jpg", "444.jpg", "oriented6.jpg", "one_pixel.png", "grey.jpg"]


def make_processed():
    tensors = {}
    for name, (kind, options) in PROCESSORS.items():
        folder = ROOT / "processors" / name
        processor = kind(**options)
        processor.save_pretrained(folder)
        if name == "vit_box":  # as older versions wrote it
            (folder / "preprocessor_config.json").write_text(json.dumps(
                {"feature_extractor_type": "ViTFeatureExtractor", "do_resize": True, "size": 14, "resample": 4,
                 "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}, indent=2))
        if name == "bit_lanczos":  # as newer ones write it beside a tokenizer
            file = folder / "preprocessor_config.json"
            (folder / "processor_config.json").write_text(json.dumps(
                {"image_processor": json.loads(file.read_text()), "processor_class": "CLIPProcessor"}, indent=2))
            file.unlink()
        for picture in PICTURES:
            found = processor(str(FILES / picture), return_tensors="np")["pixel_values"][0]
            tensors[f"{name} {picture}"] = torch.from_numpy(found.astype(np.float32))
    for name, (size, options) in OPEN_CLIP.items():
        folder = ROOT / "processors" / name
        folder.mkdir(parents=True)
        (folder / "open_clip_config.json").write_text(json.dumps(
            {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": size}}, "preprocess_cfg": options}, indent=2))
        transform = image_transform_v2(PreprocessCfg(size=tuple(size) if isinstance(size, list) else size, **options), False)
        for picture in OPEN_CLIP_PICTURES:
            tensors[f"{name} {picture}"] = transform(Image.open(FILES / picture)).contiguous()
    save_file(tensors, ROOT / "processed.safetensors")


def main():
    shutil.rmtree(ROOT, ignore_errors=True)
    FILES.mkdir(parents=True)
    make_files()
    make_resized()
    save_file({path.name: decoded(path) for path in FILES.iterdir()}
              | {"oriented6.jpg as it lies": decoded(FILES / "oriented6.jpg", turned=False)}, ROOT / "decoded.safetensors")
    make_processed()


if __name__ == "__main__":
    main()
