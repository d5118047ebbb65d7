# Code for Hopper GPUs: src/hopper and the files sm90a*.cu, sm90a*.cc beside the other kernels. Built twice:
#   hopper_emulated_test   the tests, device code run by the emulator: on every machine
#   hopper_test            the same tests on a GPU (skipped where there is none): where nvcc is
#   hopper_bench           their benchmarks: where nvcc is
# RORQUAL_CUDA: AUTO (if nvcc is found), ON (nvcc must be there), OFF.
set(RORQUAL_CUDA AUTO CACHE STRING "build the CUDA kernels for sm_90a: AUTO, ON or OFF")

file(GLOB_RECURSE hopper_device CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/hopper/*.cu ${CMAKE_SOURCE_DIR}/src/kernels/*.cu)
file(GLOB_RECURSE hopper_host CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/hopper/*.cc ${CMAKE_SOURCE_DIR}/src/kernels/*sm90a*.cc)
set(hopper_emulator ${hopper_host})
list(FILTER hopper_emulator INCLUDE REGEX "/hopper/emulator/")
set(hopper_cuda ${hopper_host})
list(FILTER hopper_cuda INCLUDE REGEX "/hopper/cuda/|_cuda\\.cc$")
list(FILTER hopper_host EXCLUDE REGEX "/hopper/emulator/|/hopper/cuda/|_cuda\\.cc$")
set(hopper_tests ${hopper_host})
list(FILTER hopper_tests INCLUDE REGEX "_test\\.cc$")
set(hopper_benches ${hopper_host})
list(FILTER hopper_benches INCLUDE REGEX "_bench\\.cc$")
list(FILTER hopper_host EXCLUDE REGEX "_(test|bench)\\.cc$")
set(hopper_test_device ${hopper_device})
list(FILTER hopper_test_device INCLUDE REGEX "_test\\.cu$")
list(FILTER hopper_device EXCLUDE REGEX "_test\\.cu$")

# The emulator compiles device code as C++: each .cu becomes a .cc that includes it.
function(rorqual_emulated out)
  foreach(file IN LISTS ARGN)
    file(RELATIVE_PATH path ${CMAKE_SOURCE_DIR}/src ${file})
    set(wrapper ${CMAKE_BINARY_DIR}/emulated/${path}.cc)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${path}\"\n")
    list(APPEND wrappers ${wrapper})
  endforeach()
  set(${out} ${wrappers} PARENT_SCOPE)
endfunction()

if(RORQUAL_TESTS)
  find_package(Boost 1.74 REQUIRED COMPONENTS context)
  find_package(GTest REQUIRED)
  include(GoogleTest)
  rorqual_emulated(emulated_device ${hopper_device})
  rorqual_emulated(emulated_test_device ${hopper_test_device})
  add_library(hopper_emulated STATIC ${hopper_host} ${hopper_emulator} ${emulated_device})
  target_link_libraries(hopper_emulated PUBLIC rorqual_options kernels Boost::context)
  add_executable(hopper_emulated_test ${hopper_tests} ${emulated_test_device})
  target_link_libraries(hopper_emulated_test PRIVATE hopper_emulated GTest::gtest GTest::gmock GTest::gtest_main)
  gtest_discover_tests(hopper_emulated_test WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} DISCOVERY_TIMEOUT 60 TEST_PREFIX "hopper_emulated."
                       PROPERTIES TIMEOUT 600)
endif()

if(RORQUAL_CUDA STREQUAL AUTO)
  include(CheckLanguage)
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  check_language(CUDA)
elseif(RORQUAL_CUDA)
  set(CMAKE_CUDA_COMPILER nvcc CACHE STRING "the CUDA compiler")
endif()
if(RORQUAL_CUDA AND CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # CMake 3.25 does not know 90a
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)  # nor nvcc 13's dialects
  set(CMAKE_CUDA_STANDARD_COMPUTED_DEFAULT 17)
  find_package(CUDAToolkit 13 REQUIRED)
  # No contraction, as on the CPU: kernels that fuse say so. The scalar truth is constexpr and runs on the device too.
  set(hopper_cuda_flags -gencode=arch=compute_90a,code=sm_90a -fmad=false --expt-relaxed-constexpr -lineinfo --Werror=all-warnings
      -Xptxas=--warn-on-spills)
  function(rorqual_cuda_target name)
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:${hopper_cuda_flags}>)
  endfunction()
  # Only what nvcc compiles itself: rorqual_options are the C++ compiler's.
  add_library(hopper_device OBJECT ${hopper_device})
  rorqual_cuda_target(hopper_device)
  add_library(hopper STATIC ${hopper_host} ${hopper_cuda} $<TARGET_OBJECTS:hopper_device>)
  target_link_libraries(hopper PUBLIC rorqual_options kernels CUDA::cudart_static CUDA::cublasLt)
  if(RORQUAL_TESTS)
    add_library(hopper_test_device OBJECT ${hopper_test_device})
    rorqual_cuda_target(hopper_test_device)
    add_executable(hopper_test ${hopper_tests} $<TARGET_OBJECTS:hopper_test_device>)
    set_target_properties(hopper_test PROPERTIES LINKER_LANGUAGE CXX)
    target_link_libraries(hopper_test PRIVATE hopper GTest::gtest GTest::gmock GTest::gtest_main)
    gtest_discover_tests(hopper_test WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} DISCOVERY_TIMEOUT 60 TEST_PREFIX "hopper."
                         PROPERTIES TIMEOUT 600)
  endif()
  if(RORQUAL_BENCH AND hopper_benches)
    find_package(benchmark REQUIRED)
    add_executable(hopper_bench ${hopper_benches})
    set_target_properties(hopper_bench PROPERTIES LINKER_LANGUAGE CXX)
    target_link_libraries(hopper_bench PRIVATE hopper benchmark::benchmark benchmark::benchmark_main)
  endif()
endif()
