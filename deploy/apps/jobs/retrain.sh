#!/bin/sh
# From the newest facts to a model that is served, if it deserves to be. Each verb that is done
# already is a cache hit, so that a second run goes on where the first one stopped.
set -eu
project=${PROJECT:-/feastrain/demand}
recipe=${RECIPE:-best}

feastrain build "$recipe" --project "$project"                   # exit 3: the data is refused
feastrain audit "$recipe" --project "$project"                   # exit 4: a feature knows the future
feastrain train "$recipe" --project "$project" --candidate --on "${ON:-kubernetes}"
feastrain backtest "$recipe" --project "$project"                # the leaderboard, and report.html
feastrain promote "$recipe" --project "$project" --better-by "${BETTER_BY:-0}"   # exit 1: it stays out
