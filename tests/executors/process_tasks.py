"""Tasks that the tests run in real children."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worker_runtime.context import JobContext
from worker_runtime.errors import RunAgain


def add(a: int, b: int = 1) -> int:
    return a + b
