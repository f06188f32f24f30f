#!/bin/sh
# From the newest facts to a model that is served, if it deserves to be. Each verb that is done
# already is a cache hit, so that a second run goes on where the first one stopped.
set -eu
project=${PROJECT:-/feastrain/demand}
recipe=${RECIPE:-best}
snapshots=${FEASTRAIN_ARTIFACTS:-$project/artifacts}/snapshots

feastrain build "$recipe" --project "$project"                   # exit 3: the data is refused
if [ -e "$snapshots/$recipe.previous" ]; then
    feastrain drift "$recipe.previous" "$recipe" --project "$project" ||   # the alert FeatureDrift
        echo "retrain: the drift was not measured; it goes on without" >&2   # the alert StageFailed
fi
feastrain audit "$recipe" --project "$project"                   # exit 4: a feature knows the future
feastrain train "$recipe" --project "$project" --candidate --on "${ON:-kubernetes}"
feastrain backtest "$recipe" --project "$project"                # the leaderboard, and report.html
feastrain promote "$recipe" --project "$project" --better-by "${BETTER_BY:-0}"   # exit 1: it stays out
