#!/bin/sh
# The newest features go online, and what the store then answers is compared with the offline join.
set -eu
project=${PROJECT:-/feastrain/demand}
recipe=${RECIPE:-best}

feastrain materialize "$recipe" --project "$project"
feastrain skew "$recipe" --project "$project" --sample "${SAMPLE:-500}"   # exit 1: they differ
