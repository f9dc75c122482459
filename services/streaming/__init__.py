"""One endpoint of each kind: an upload, a log, and answers that grow."""

from .endpoints import service as service
