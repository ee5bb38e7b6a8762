#!/usr/bin/env bash
# Applies the stages (or those named as arguments) one after the other and stops at the first that fails.
# Run again, it goes on with what is missing.
set -euo pipefail
cd "$(dirname "$0")"
(($#)) || set -- [1-9]*.yaml
kubectl apply -f 00-settings.yaml
for file in "$@"; do
  job=$(kubectl apply -f "$file" -o name)
  echo "$job"
  until
    state=$(kubectl get "$job" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}') || true
    [[ $state == *Complete* || $state == *Failed* ]]
  do
    sleep "${POLL_SECONDS:-10}"
  done
  if [[ $state == *Failed* ]]; then
    kubectl logs --selector "batch.kubernetes.io/job-name=${job#*/}" --tail=1 --prefix >&2 || true
    echo "$job failed, for the reasons above; mend them, 'kubectl delete $job', and run this again" >&2
    exit 1
  fi
done
