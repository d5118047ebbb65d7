// hopper/launch.h under the emulator.
#pragma once

#include <functional>
#include <tuple>
#include <type_traits>

namespace rorqual::hopper {

namespace emulator {
void run(const char* name, const LaunchShape& shape, const std::function<void()>& body);
}

template <class... Parameters, class... Arguments>
void launch_named(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape, DeviceStream,
                  const Arguments&... arguments) {
  const std::tuple<std::decay_t<Parameters>...> values{static_cast<std::decay_t<Parameters>>(arguments)...};
  emulator::run(name, shape, [&] { std::apply(kernel, values); });
}

}  // namespace rorqual::hopper
