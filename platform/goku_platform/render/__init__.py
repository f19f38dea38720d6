"""JobSpec -> manifests, one file a kind of job, and the rules that every manifest obeys."""
