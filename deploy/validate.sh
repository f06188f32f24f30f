#!/bin/sh
# Puts every overlay together and checks each object: against Kubernetes' schemas, the CRDs that
# FEASTRAIN_CRDS has, and the promises that tests/test_deploy.py lists.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
exec "$root/run" test tests/test_deploy.py "$@"
