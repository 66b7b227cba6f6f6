"""The leak audit of a benchmark (``docs/audit.md``): one file a family of guards, thresholds fixed beforehand."""

from lang1.remede.audit.finding import AuditReport, Finding
from lang1.remede.audit.run import audit
from lang1.remede.audit.settings import AuditSettings

__all__ = ["AuditReport", "AuditSettings", "Finding", "audit"]
