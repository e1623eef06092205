"""Render the Mandelbrot set on all cores, with a progress bar, into a PNG file:

python examples/mandelbrot.py [FILE] [WIDTH]

One process job for each band of rows. Each reports its rows as it computes them; a band that took
longer than its timeout would be killed, and no other band would notice.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import zlib

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from worker_runtime import JobContext, JobHandle, Runtime, Settings, task

ITERATIONS_MAX = 200
LEFT, RIGHT, MIDDLE = -2.2, 0.8, 0.0


@task(run_in="process", timeout_s=120)
def render_band(ctx: JobContext, first_row: int, rows: int, width: int, height: int) -> bytes:
    """`rows` rows of `width` RGB pixels of an image of `height` rows."""
    scale = (RIGHT - LEFT) / width
    band = bytearray()
    for row in range(first_row, first_row + rows):
        imaginary = MIDDLE + (row - height / 2) * scale
        for column in range(width):
            band += color(escape(complex(LEFT + column * scale, imaginary)))
        ctx.report(row + 1 - first_row, rows)
        ctx.raise_if_cancelled()
    return bytes(band)


def escape(point: complex) -> int:
    """Iterations until the orbit of 0 leaves the disc of radius 2."""
    z = 0j
    for iteration in range(ITERATIONS_MAX):
        z = z * z + point
        if z.real * z.real + z.imag * z.imag > 4.0:
            return iteration
    return ITERATIONS_MAX


def color(iterations: int) -> bytes:
    if iterations == ITERATIONS_MAX:
        return b"\0\0\0"
    share = (iterations / ITERATIONS_MAX) ** 0.4
    return bytes((int(255 * share), int(180 * share**2), int(120 + 135 * (1 - share))))


def png(pixels: bytes, width: int, height: int) -> bytes:
    """RGB rows as a PNG file (RFC 2083)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    stride = 3 * width
    rows = b"".join(b"\0" + pixels[y * stride : (y + 1) * stride] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


async def show_progress(bands: list[JobHandle[bytes]], rows: int, console: Console) -> None:
    """Follow the jobs' reports until all have ended."""
    columns = (TextColumn("rendering"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("rows", total=rows)
        waiting = asyncio.gather(*[band.wait() for band in bands])
        while not waiting.done():
            done = sum(p.done for band in bands if (p := band.info().progress) is not None)
            bar.update(shown, completed=done)
            await asyncio.wait([waiting], timeout=0.1)
        bar.update(shown, completed=rows)


async def main(path: str, width: int) -> None:
    height = width * 2 // 3
    cores = os.cpu_count() or 1
    band_rows = max(1, height // (8 * cores))
    starts = range(0, height, band_rows)
    settings = Settings.from_environment(
        concurrency=cores, processes=cores, queue_capacity=len(starts)
    )
    async with Runtime([render_band], settings=settings) as runtime:
        bands = [
            await runtime.enqueue(render_band, row, min(band_rows, height - row), width, height)
            for row in starts
        ]
        await show_progress(bands, height, Console(stderr=True))
        pixels = b"".join([await band.result() for band in bands])
    with open(path, "wb") as file:
        file.write(png(pixels, width, height))
    print(f"{path}: {width} x {height} pixels in {len(bands)} bands")


if __name__ == "__main__":
    file_name = sys.argv[1] if len(sys.argv) > 1 else "mandelbrot.png"
    asyncio.run(main(file_name, int(sys.argv[2]) if len(sys.argv) > 2 else 900))
