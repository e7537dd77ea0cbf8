#!/usr/bin/env bash
# Runs on the upstream: builds a package from its spec file, signs it and offers it.
#
#   publish.sh PACKAGE VERSION [MIB]    MIB: so much that does not compress is in the package
set -euo pipefail
package=$1 version=$2 mib=${3:-0}
spec=/opt/yum-lab/specs/$package.spec
[[ -e $spec ]] || { echo "there is no spec file for $package; known are: $(cd "${spec%/*}" && echo *.spec)" >&2; exit 1; }
[[ $version =~ ^[0-9][0-9.]*$ && $mib =~ ^[0-9]+$ ]] || { echo "wanted: PACKAGE VERSION [MIB]" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/SOURCES"
head -c "${mib}M" /dev/urandom >"$work/SOURCES/ballast"
rpmbuild -bb --quiet --nodeps --define "_topdir $work" --define "wanted $version" --define "_binary_payload w1.gzdio" "$spec"
rpmsign --addsign --define '_gpg_name Upstream of the lab' \
  --define "__gpg $(command -v gpg)" "$work"/RPMS/*/*.rpm >"$work/log" 2>&1 ||
  { cat "$work/log" >&2; exit 1; }
# A file is whole when it gets its name: somebody may be downloading.
for file in "$work"/RPMS/*/*.rpm; do
  cp "$file" "/srv/upstream/.${file##*/}"
  mv "/srv/upstream/.${file##*/}" "/srv/upstream/${file##*/}"
done
createrepo_c --quiet --update /srv/upstream
