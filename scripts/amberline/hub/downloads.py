"""Files from a Hugging Face hub: resumed where they were cut, retried with backoff, checked against the hub's digest.

`huggingface_hub` finds the file, signs the request and names the errors. The bytes are fetched here, because its own
download starts again from nothing when it is interrupted for good (a killed job, a reset connection).
"""

import os
import shutil
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, HfFileMetadata, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import DatasetInfo, ModelInfo
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random
from tqdm import tqdm

from amberline.core.digests import file_digest
from amberline.core.progress import progress

# Attempts in a row that bring nothing new before the download is given up.
FRUITLESS_ATTEMPTS = 6
LONGEST_WAIT_SECONDS = 60.0
TIMEOUT_SECONDS = 30.0
TRY_AGAIN_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
SHA256_DIGITS = 64


class HubError(Exception):
    """A file could not be had from the hub: one message with the fix."""


class CutShort(Exception):
    """The connection ended before the file did."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the hub. `kind` is "dataset" or "model"."""

    repository: str
    revision: str
    file: str
    kind: str

    def __str__(self) -> str:
        """As in the hub's addresses."""
        return f"{self.repository} @ {self.revision}: {self.file}"

    @property
    def local_copy(self) -> str:
        """What the configuration may name instead."""
        return "a local folder as `pretrained`" if self.kind == "model" else "a local `path`"


def endpoint() -> str | None:
    """Another hub, when HF_ENDPOINT names one."""
    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or None


def download(wanted: HubFile, target: Path) -> str:
    """Fetch a file to `target`, going on from what an interrupted download left there; return its commit.

    `target` is a working place: what is in it may be part of the file until this returns. Raises HubError; bytes
    that were fetched stay for the next attempt, unless they turn out wrong.
    """
    with explained(wanted):
        metadata = retrying(lambda: 0)(_metadata, wanted)
        _start_anew_if_another(target, metadata)
        drawn = progress(
            desc=wanted.file, total=metadata.size, initial=_size(target), unit="B", unit_scale=True, mininterval=1
        )
        with drawn as bar:
            retrying(lambda: _size(target))(_fetch_rest, wanted, target, metadata.size, bar)
    _check_digest(wanted, target, metadata)
    return metadata.commit_hash or wanted.revision


def list_files(wanted: HubFile) -> tuple[str, list[str]]:
    """The commit of a repository's revision, and the names of its files there. Raises HubError."""
    with explained(wanted):
        info = retrying(lambda: 0)(_info, wanted)
    return info.sha or wanted.revision, [file.rfilename for file in info.siblings or ()]


def _info(wanted: HubFile) -> DatasetInfo | ModelInfo:
    hub = HfApi(endpoint=endpoint())
    if wanted.kind == "dataset":
        return hub.dataset_info(wanted.repository, revision=wanted.revision)
    return hub.model_info(wanted.repository, revision=wanted.revision)


def put(downloaded: Path, target: Path) -> None:
    """A second name for a downloaded file where that is possible, a copy elsewhere."""
    try:
        os.link(downloaded, target)
    except OSError:
        shutil.copyfile(downloaded, target)


def reuse(earlier: Path, wanted: HubFile, target: Path) -> None:
    """Put an earlier copy at `target`, as if it had been fetched, where it is what the hub has: by its own sha256."""
    if target.exists() or not earlier.is_file():
        return
    with explained(wanted):
        metadata = retrying(lambda: 0)(_metadata, wanted)
    if metadata.size == _size(earlier) and metadata.etag == file_digest(earlier):
        _start_anew_if_another(target, metadata)
        os.link(earlier, target)


def _metadata(wanted: HubFile) -> HfFileMetadata:
    return get_hf_file_metadata(_url(wanted), timeout=TIMEOUT_SECONDS)


def _url(wanted: HubFile) -> str:
    return hf_hub_url(
        wanted.repository, wanted.file, repo_type=wanted.kind, revision=wanted.revision, endpoint=endpoint()
    )


def _fetch_rest(wanted: HubFile, target: Path, size: int | None, bar: "tqdm[None]") -> None:
    """Ask for what is missing and append it. Raises CutShort or an httpx2 error when the connection ends early."""
    # Of a file of unknown size, nobody could tell whether what is there is all of it.
    have = 0 if size is None else _size(target)
    if have == size and target.exists():
        return
    # The hub redirects to a signed address that expires, so every attempt begins at the hub.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream(
        "GET", _url(wanted), headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS
    ) as response:
        if response.is_error:
            response.read()
        if response.status_code == 416 and have:
            target.unlink()
            raise CutShort(f"there is nothing behind the {have} bytes that were fetched; they are removed")
        hf_raise_for_status(response)
        goes_on = response.status_code == 206 and _range_start(response.headers) == have
        if have and not goes_on:
            # The server does not know ranges: all of it comes again.
            bar.update(-have)
        with open(target, "ab" if goes_on else "wb") as handle:
            # As they arrive: whatever came before a cut is on disk.
            for chunk in response.iter_raw():
                handle.write(chunk)
                bar.update(len(chunk))
            received = handle.tell() - (have if goes_on else 0)
    if size is not None and _size(target) != size and (other := _other_content(response.headers, received)):
        target.unlink()
        raise HubError(f"{wanted}: {other}")
    if size is not None and _size(target) != size:
        raise CutShort(f"the connection ended after {_size(target)} of {size} bytes")


def _other_content(headers: Mapping[str, str], received: int) -> str | None:
    """What came instead of the file, if all of it came; None: the connection was cut."""
    kind = headers.get("content-type", "").split(";")[0]
    if kind == "text/html":
        return (
            "a web page came instead of the file, probably a login page of a proxy or of a mirror. Fix: log in there "
            "with a browser, or unset HTTPS_PROXY or HF_ENDPOINT."
        )
    if (coding := headers.get("content-encoding", "identity")) != "identity":
        return (
            f"the server sent it compressed ({coding}), although it was not asked to: a mirror or a proxy changes it. "
            "Fix: unset HF_ENDPOINT or HTTPS_PROXY, or give a local copy."
        )
    if headers.get("content-length") == str(received):
        return (
            f"{received:,} bytes of {kind or 'unknown kind'} came, which is not the file that the hub describes. Fix: "
            "look at what a mirror (HF_ENDPOINT) or a proxy (HTTPS_PROXY) sends, or give a local copy."
        )
    return None


def _range_start(headers: Mapping[str, str]) -> int:
    """Where the part begins that the server sends, from `Content-Range: bytes 5-9/10`; -1 if it does not say."""
    start = headers.get("content-range", "").removeprefix("bytes ").split("-")[0]
    return int(start) if start.isdigit() else -1


def _start_anew_if_another(target: Path, metadata: HfFileMetadata) -> None:
    """Remove what is left of a download if it is of another content than the hub has now."""
    mark = target.with_name(f"{target.name}.etag")
    etag = metadata.etag or ""
    if target.exists() and (
        not mark.exists() or mark.read_text() != etag or (metadata.size is not None and _size(target) > metadata.size)
    ):
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(etag)


def _check_digest(wanted: HubFile, target: Path, metadata: HfFileMetadata) -> None:
    """Compare with the hub's own sha256, which it gives for large files as the ETag."""
    expected = metadata.etag or ""
    if len(expected) == SHA256_DIGITS:
        found = file_digest(target)
        if found != expected:
            # Else the next attempt would find it complete and fail in the same way.
            target.unlink()
            raise HubError(
                f"{wanted}: what arrived has sha256 {found}, but the hub says {expected}. It was damaged on the way "
                "and is removed; run this again."
            )


def discard(target: Path) -> None:
    """Remove what `download` left, once the file has been taken from there or found wrong."""
    target.unlink(missing_ok=True)
    target.with_name(f"{target.name}.etag").unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def retrying(progress: Callable[[], int]) -> Retrying:
    """Retry what time may fix, until FRUITLESS_ATTEMPTS in a row brought nothing that `progress` counts."""
    patience = _Patience(progress)
    return Retrying(
        retry=retry_if_exception(_may_pass),
        after=patience.count,
        wait=patience.wait,
        stop=patience.is_over,
        before_sleep=_say_why,
        sleep=time.sleep,
        reraise=True,
    )


class _Patience:
    """How long to wait after a failed attempt: as the server asks, else longer each time that nothing came."""

    def __init__(self, progress: Callable[[], int]) -> None:
        self._progress = progress
        self._reached = progress()
        self._fruitless = 0

    def count(self, _: RetryCallState) -> None:
        now = self._progress()
        self._fruitless = 0 if now > self._reached else self._fruitless + 1
        self._reached = now

    def wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = _retry_after(error) if isinstance(error, HfHubHTTPError) else None
        longest = min(LONGEST_WAIT_SECONDS, 2.0**self._fruitless)
        return wait_random(longest / 2, longest)(state) if asked is None else asked

    def is_over(self, _: RetryCallState) -> bool:
        return self._fruitless >= FRUITLESS_ATTEMPTS


def _say_why(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    tqdm.write(f"{_in_one_line(error)}; trying again in {state.upcoming_sleep:.0f} s", file=sys.stderr)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in TRY_AGAIN_STATUS
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.ProxyError) or _is_of_certificate(error):
        return False
    return isinstance(error, CutShort | httpx2.TransportError)


def _is_of_certificate(error: BaseException | None) -> bool:
    """Whether a server's certificate was refused, which trying again does not change."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _retry_after(error: HfHubHTTPError) -> float | None:
    """Seconds that the server asks to wait: the header is a number or a date."""
    asked = error.response.headers.get("retry-after") if error.response is not None else None
    if asked is None:
        return None
    try:
        return float(asked)
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
        except ValueError:
            return None


@contextmanager
def explained(wanted: HubFile) -> Iterator[None]:
    """Turn what `huggingface_hub` and the network raise into HubError with the fix."""
    try:
        yield
    except Exception as error:
        if fix := _fix(error, wanted):
            said = _in_one_line(error.server_message) if isinstance(error, HfHubHTTPError) else ""
            raise HubError(f"{wanted}: {fix}" + (f" The hub says: {said}" if said else "")) from error
        raise


def _fix(error: BaseException, wanted: HubFile) -> str | None:  # noqa: PLR0911, PLR0912
    """What to tell the user; None for errors that are none of the hub or the network."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    match error:
        case GatedRepoError():
            return (
                f"access is gated ({status}). Accept its conditions on the repository's page, then log in with "
                "`hf auth login` or set HF_TOKEN."
            )
        case RepositoryNotFoundError() if wanted.repository.startswith("WizardLM/"):
            renamed = wanted.repository.replace("WizardLM/", "WizardLMTeam/", 1)
            return f"there is no such repository ({status}): the organisation was renamed. Use {renamed}."
        case RepositoryNotFoundError():
            return (
                f"there is no such repository, or it is private ({status}). Check the id; if it is private, log in "
                "with `hf auth login` or set HF_TOKEN."
            )
        case RevisionNotFoundError():
            return "the repository has no such revision (404). Give the full commit."
        case RemoteEntryNotFoundError():
            return "there is no such file at this revision (404). Check the file and the revision."
        case HfHubHTTPError() if status in {401, 403}:
            return f"access is refused ({status}). Log in with `hf auth login` or set HF_TOKEN, and check its rights."
        case HfHubHTTPError() if status == 404:
            return "not found (404). Check the id, the revision and the file."
        case HfHubHTTPError() if status == 451:
            return "it is withheld for legal reasons (451). Fix: use another source, or give a local copy."
        case HfHubHTTPError() if status is not None and status < 500 and status not in TRY_AGAIN_STATUS:
            return (
                f"the hub refuses ({status}). Fix: check the id, the revision, the file, and HF_ENDPOINT if it is set."
            )
        case HfHubHTTPError():
            return f"the hub answers {status}. What was fetched is kept: run this again later to go on."
        case HFValidationError():
            return f"this is no id of a repository: {_in_one_line(error)}"
        case OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set. Unset it, or give {wanted.local_copy}."
        case ImportError() | ValueError() if "proxy" in str(error).lower():
            return (
                f"the proxy cannot be used ({_in_one_line(error)}). Fix: set ALL_PROXY, HTTPS_PROXY and HTTP_PROXY to "
                "an http:// proxy or unset them, or download the file elsewhere and give a local copy."
            )
        case _ if _is_of_certificate(error):
            return (
                f"the server's certificate is refused ({_in_one_line(error)}). Fix: set SSL_CERT_FILE to the "
                "certificates of your network, correct the machine's clock, or unset HF_ENDPOINT or HTTPS_PROXY."
            )
        case CutShort() | httpx2.TransportError() | FileMetadataError():
            return (
                f"the network failed ({_in_one_line(error)}). What was fetched is kept: run this again to go on, or "
                f"give {wanted.local_copy}."
            )
    return None


def _in_one_line(error: BaseException | str | None) -> str:
    if error is None or isinstance(error, str):
        return " ".join((error or "").split())[:300]
    return " ".join(str(error).split()) or type(error).__name__
