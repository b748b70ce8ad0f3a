# What shell scripts share: their arguments and their environment. They source it from the repository root.
# shellcheck shell=bash

show_help() { # the head of the script that was called
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "scripts/${0##*/}"
}

# read_arguments "NAMES WITH A VALUE" "NAMES WITHOUT" ARGUMENTS...: sets the variable of each name that is given, to `yes`
# without a value. --help prints the script's own head.
read_arguments() {
  local valued=" $1 " plain=" $2 " name
  shift 2
  while (($#)); do
    name=${1#--}
    if [[ $1 == -h || $1 == --help ]]; then
      show_help
      exit 0
    elif [[ ! $1 =~ ^--[a-z_]+$ || $valued$plain != *" $name "* ]]; then
      echo "error: unknown argument $1 (--help lists them)" >&2
      exit 2
    elif [[ $plain == *" $name "* ]]; then
      printf -v "$name" yes
    elif [[ $# -lt 2 || $2 == --* ]]; then
      echo "error: $1 wants a value (--help lists them)" >&2
      exit 2
    else
      printf -v "$name" %s "$2" && shift
    fi
    shift
  done
}

# The site's settings, such as partition and account, and the repository's Python.
use_environment() {
  # shellcheck disable=SC1091
  if [[ -f configs/site.env ]]; then set -a && source configs/site.env && set +a; fi
  # shellcheck disable=SC1091
  if [[ -f .venv/bin/activate ]]; then source .venv/bin/activate; fi
}
