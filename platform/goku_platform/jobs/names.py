"""Every label and annotation key. A selector, a chart or a test that needs one takes it here."""

# Kubernetes' recommended labels
APP = "app.kubernetes.io/name"
MANAGED_BY = "app.kubernetes.io/managed-by"

# ours, on the job and on its pods
RUN = "goku.platform/run"
JOB = "goku.platform/job"
PRESET = "goku.platform/preset"

# ours, for people and tools that look at the object: too long for labels
RUN_URI = "goku.platform/run-uri"
CONFIG_DIGEST = "goku.platform/config-digest"
CODE_VERSION = "goku.platform/code-version"

# Kueue, on the job object only
QUEUE = "kueue.x-k8s.io/queue-name"
