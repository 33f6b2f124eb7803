#!/usr/bin/env bash
# Debian packages that some tests need: a data set, and the browser that opens the report.
set -euo pipefail
packages=(dataset-fashion-mnist chromium fonts-dejavu-core)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit 0
echo "installing ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
