"""The parts of KubernetesClient: `api` talks to the server, the others turn raw JSON into words."""
