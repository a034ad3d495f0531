#!/usr/bin/env bash
# run.sh BINARY TEST.py...: runs tests against BINARY. One that compares with Python packages is skipped,
# exit status 77, where OFFRAMP_PYTHON does not name a Python that has them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OFFRAMP_BINARY=$1 PYTHONDONTWRITEBYTECODE=1
case "$2" in
  layouts_test.py) exec "${OFFRAMP_PYTHON:-python3}" "${@:2}" ;;
esac
if [[ -z ${OFFRAMP_PYTHON:-} ]]; then
  echo "SKIPPED: $2 compares with Python packages: set OFFRAMP_PYTHON to a Python with those of tests/requirements.txt (launch/test does)"
  exit 77
fi
exec "$OFFRAMP_PYTHON" -m pytest --quiet --no-header -p no:cacheprovider "${@:2}"
