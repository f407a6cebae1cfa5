// Command line -> Options; every mistake is an Error with one line.
#ifndef ASCEND310_INFER_INC_OPTIONS_H_
#define ASCEND310_INFER_INC_OPTIONS_H_

#include <cstdint>
#include <stdexcept>
#include <string>

// What went wrong, where, and what was expected: one line, shown by main, exit code 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string mindir_path;
  std::string dataset_path;    // folder of preprocess.py, or
  std::string images;          // folder of pictures, or
  std::string first, second;   // two pictures to compare
  double threshold = 2;        // cosine from which they are one person; 2: not given
  std::string result_path = "result_Files";
  std::string time_path = "time_Result";
  std::string device_target = "Ascend";
  int device_id = 0;
  std::string precision_mode = "enforce_fp16";  // MindSpore Lite's own default for Ascend
  int batch_size = 0;  // 0: the model's own
  int threads = 0;     // 0: one per core
  bool write_bins = false;
  bool help = false;
};

Options ParseOptions(int argc, const char *const *argv);
std::string Usage();

#endif  // ASCEND310_INFER_INC_OPTIONS_H_
