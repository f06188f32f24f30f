#!/bin/sh
# Writes the training runtimes anew: `feastrain render` says what they hold.
#   FEASTRAIN  the command; by default `feastrain`
set -eu
cd "$(dirname "$0")"
export FEASTRAIN_CLUSTER_NAMESPACE=feastrain
export FEASTRAIN_CLUSTER_IMAGE=ghcr.io/feastrain/train-cpu:0.1.0
export FEASTRAIN_CLUSTER_GPU_IMAGE=ghcr.io/feastrain/train-cuda:0.1.0
to=${1:-apps}
mkdir -p "$to/train" "$to/train-openshift"
# shellcheck disable=SC2086 # a command with its words
${FEASTRAIN:-feastrain} render >"$to/train/runtimes.yaml"
FEASTRAIN_CLUSTER_OPENSHIFT=true ${FEASTRAIN:-feastrain} render >"$to/train-openshift/runtimes.yaml"
