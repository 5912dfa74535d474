"""What MediaPipe sees: hands, their crops, their fingers, and hands brought to one pose."""
