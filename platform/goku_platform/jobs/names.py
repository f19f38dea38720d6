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
LAUNCH = "goku.platform/launch"  # a random mark: a launch that breaks off undoes only what it made

# ours, as the owner of fields of an object: server-side apply, and a TrainJob's runtimePatches
FIELD_MANAGER = "goku-platform"
PATCH_MANAGER = "goku.platform/cli"

# Kueue, labels on the job object only
QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"

# Kueue, annotations on the pods
TOPOLOGY_REQUIRED = "kueue.x-k8s.io/podset-required-topology"
TOPOLOGY_PREFERRED = "kueue.x-k8s.io/podset-preferred-topology"

# where a pod finds its index: set by the controllers before the pod is made
REPLICA_INDEX = "training.kubeflow.org/replica-index"  # training-operator, a label
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"  # Indexed Jobs, an annotation

# Kubernetes, on nodes
HOSTNAME = "kubernetes.io/hostname"
