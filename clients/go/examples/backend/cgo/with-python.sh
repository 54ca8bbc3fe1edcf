#!/bin/sh
# Runs a command (go build …, go test …) with what the linker needs of a Python:
#
#     sh with-python.sh ../../../../../.venv/bin/python go build -o /tmp/host ./host
#
# It has to be a Python with its headers and its shared library (Debian: libpython3-dev; pyenv:
# PYTHON_CONFIGURE_OPTS=--enable-shared), and mlx-lm installed. The library's path is written into
# the binary; another machine needs the same one there.
set -e
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
setting() { "$python" -c "import sysconfig; print($1)"; }
include=$(setting "sysconfig.get_paths()['include']")
folder=$(setting "sysconfig.get_config_var('LIBDIR')")
version=$(setting "sysconfig.get_config_var('LDVERSION')")
if [ "$(setting "sysconfig.get_config_var('Py_ENABLE_SHARED')")" != 1 ] || [ ! -f "$include/Python.h" ]; then
	echo "$python has no shared library, or no headers" >&2
	exit 1
fi
CGO_ENABLED=1 CGO_CFLAGS="-I$include" CGO_LDFLAGS="-L$folder -lpython$version -Wl,-rpath,$folder" \
	MLX_PYTHON="$python" exec "$@"
