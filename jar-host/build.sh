#!/bin/sh
# Builds the JAR host with plain javac.
#   build.sh OUTDIR             midward-jar-host.jar, midward-mid-classes.jar, sample/credential-resolver.jar, and in lib/
#                               the libraries that resolver JARs assume, copied from where Debian's packages put them
#   build.sh OUTDIR fake-sdk    JavaPasswordSDK.jar, a stand-in for tests; never part of the product
#   build.sh OUTDIR jar FOLDER NAME
#                               NAME.jar from a resolver's source in FOLDER, against the MID classes in OUTDIR
# Does nothing when everything is newer than its source. Needs a JDK 11 or later.
set -eu
out=${1:?usage: build.sh OUTDIR [fake-sdk | jar FOLDER NAME]}
what=${2:-host}
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$out"
out=$(CDPATH= cd -- "$out" && pwd)
work=

# make_jar JAR SOURCE_DIR CLASS_PATH
make_jar() {
    if [ -f "$1" ] && [ -z "$(find "$2" "$0" \( -name '*.java' -o -name build.sh \) -newer "$1")" ]; then
        return
    fi
    work=$(mktemp -d "$out/.build.XXXXXX")
    find "$2" -name '*.java' > "$work/sources"
    javac -nowarn --release 11 -encoding UTF-8 -g:lines,source -cp "$3" -d "$work/classes" "@$work/sources"
    jar --create --no-compress --file "$work/new.jar" -C "$work/classes" .
    mkdir -p "$(dirname "$1")"
    # A rename, so that a running MID never sees half a JAR.
    mv "$work/new.jar" "$1"
    rm -rf "$work"
    work=
}
# Copies, not links: a JAR's process may read lib/ and nothing beside it.
copy_libraries() {
    mkdir -p "$out/lib"
    for name in gson httpclient httpcore commons-logging commons-codec commons-io; do
        from=${MIDWARD_JAVA_LIBRARIES:-/usr/share/java}/$name.jar
        if [ ! -f "$from" ]; then
            echo "build.sh: no $from: resolver JARs that assume $name must bring it in a lib/ folder of their own" >&2
        elif ! cmp -s "$from" "$out/lib/$name.jar"; then
            cp "$from" "$out/lib/.new"
            chmod 644 "$out/lib/.new"
            mv "$out/lib/.new" "$out/lib/$name.jar"
        fi
    done
}
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

case $what in
host)
    copy_libraries
    make_jar "$out/midward-jar-host.jar" "$here/host" "$here/host"
    make_jar "$out/midward-mid-classes.jar" "$here/mid-classes" "$here/mid-classes"
    make_jar "$out/sample/credential-resolver.jar" "$here/sample" "$out/midward-mid-classes.jar"
    ;;
fake-sdk)
    make_jar "$out/JavaPasswordSDK.jar" "$here/../crates/fakes/java" "$here"
    ;;
jar)
    make_jar "$out/${4:?name of the JAR}.jar" "${3:?folder of the source}" "$out/midward-mid-classes.jar:$out/lib/*"
    ;;
*)
    echo "build.sh: unknown target $what (host, fake-sdk, jar)" >&2
    exit 2
    ;;
esac
