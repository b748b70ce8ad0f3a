#!/usr/bin/env bash
# Make the environment: .venv with requirements.txt, and where apt may install them Tesseract with six languages, a CJK
# font, and the compiler with which DeepSpeed builds its communication on the CPU.
#   bash scripts/setup.sh [--slurm] [--chromium]     the programs of scripts/local_slurm.sh too; the tests' browser too
# What is there already is left alone. Exit codes: 0 done, 4 something is missing and cannot be installed here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

slurm="" chromium=""
source scripts/shell.sh
read_arguments "" "slurm chromium" "$@"

packages=(tesseract-ocr tesseract-ocr-eng tesseract-ocr-fra tesseract-ocr-spa tesseract-ocr-rus tesseract-ocr-jpn
  tesseract-ocr-jpn-vert tesseract-ocr-chi-sim tesseract-ocr-osd fonts-noto-cjk g++)
[[ -z $slurm ]] || packages+=(slurmctld slurmd slurm-client munge iproute2)
[[ -z $chromium ]] || packages+=(chromium)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
done
if ((${#missing[@]})) && command -v apt-get >/dev/null; then
  sudo=() log=$(mktemp)
  ((EUID == 0)) || sudo=(sudo -n)
  install=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
  echo "installing ${missing[*]}" >&2
  if ! { "${sudo[@]}" apt-get update -q && "${install[@]}"; } >"$log" 2>&1; then
    printf 'error: system programs are missing and could not be installed\n  where: %s\n  found: %s\n  what to do: %s\n' \
      "apt-get" "$(tail -n 1 "$log")" "sudo apt-get install ${missing[*]}" >&2
    rm -f "$log"
    exit 4
  fi
  rm -f "$log"
elif ! command -v apt-get >/dev/null && ! command -v tesseract >/dev/null; then
  printf 'error: Tesseract is missing\n  what to do: install it with the languages %s, and a CJK font\n' \
    "eng fra spa rus jpn chi_sim" >&2
  exit 4
fi

wanted=$(sha256sum requirements.txt pyproject.toml)
if [[ ! -f .venv/installed || $(cat .venv/installed) != "$wanted" ]]; then
  echo "installing the packages of requirements.txt into .venv (some minutes)" >&2
  python=""
  for candidate in python3.11 python3.12 python3.13 python3; do # a name may be there and not run (pyenv's shims)
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate && break; fi
  done
  if [[ -z $python ]]; then
    printf 'error: there is no Python 3.11 or newer\n  found: %s\n  what to do: install python3.11 with its venv module\n' \
      "$(python3 --version 2>&1)" >&2
    exit 4
  fi
  # A venv that was killed while it was made has a Python and no pip.
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1 && ! "$python" -m venv --clear .venv; then
    printf 'error: the environment could not be made\n  where: .venv\n  what to do: %s\n' "apt-get install python3-venv" >&2
    exit 4
  fi
  if ! .venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt; then
    printf 'error: the packages could not be installed\n  where: requirements.txt\n  found: %s\n  what to do: %s\n' \
      "pip's last lines above" "see whether pip reaches a package index (PIP_INDEX_URL), then the same command" >&2
    exit 4
  fi
  echo "$wanted" >.venv/installed
fi
