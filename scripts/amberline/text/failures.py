"""What a program that cuts or tokenizes a file ends with: one message each."""

from pydantic import ValidationError

from amberline.core.funnel import FunnelError, NothingLeft
from amberline.core.manifests import ManifestError
from amberline.core.parallel import WorkerLost
from amberline.data.streams import BadFile
from amberline.templates.registry import TemplateError
from amberline.text.tokenizers import TokenizerRefused

FAILURES = (
    ValidationError,
    ManifestError,
    BadFile,
    FunnelError,
    NothingLeft,
    TemplateError,
    TokenizerRefused,
    WorkerLost,
)
