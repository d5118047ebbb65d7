#include "hopper/device.h"
